"""Completion by the Tab key, for a shell: a script that has the flags and words of every command.

shtab makes it from the commands' own parsers, once; while one types, nothing of this project is started.

    sat completion bash
"""
import argparse
import re

import shtab

from analysis import flags as analysis
from commands.command_line import add_flags
from machine import programs
from ranks.command_line import OneLineParser, examples, mode_parser
from sat import cli
from settings import sections
from settings.modes import DIRECTORY, EVAL, FAKE, SERVED, TRAINING
from tables import TABLES
from zoo import published

SHELLS = ('bash', 'zsh', 'fish')
_MODES = ('eval', 'eval_directory')  # flags for which there are commands
_MODELS = ' '.join(published.PREFIX + model.name for model in published.MODELS)
# What completes a value, by its name in the help.
_FILE_OR_MODEL = {
    'bash': '_sat_compgen_file', 'zsh': '_sat_checkpoint',
    'fish': '(__fish_complete_path (commandline -ct)) ' + _MODELS,
    'preamble': {'bash': '_sat_compgen_file() {{ compgen -f -- "$1"; compgen -W "{}" -- "$1"; }}'.format(_MODELS),
                 'zsh': '_sat_checkpoint() {{ _files; compadd -- {} }}'.format(_MODELS)}}
_VALUES = {**dict.fromkeys(('DIR', 'FOLDER'), shtab.DIRECTORY), **dict.fromkeys(('FILE', 'OUTPUT'), shtab.FILE),
           **dict.fromkeys(('CHECKPOINT', 'NAME|FILE'), _FILE_OR_MODEL)}
# Bash takes a colon and an equals sign for words of their own: zoo:NAME is put together again, of which bash then
# replaces what follows the colon, and of --flag=VALUE the sign is left out.
_BASH = r'''
_sat() {
  local word colon= words=()
  for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
    if [[ $word == : || -n $colon ]]; then
      words[${#words[@]}-1]+=$word
    elif [[ $word != '=' ]]; then
      words+=("$word")
    fi
    [[ $word == : ]] && colon=yes || colon=
  done
  [[ $word == '=' ]] && words+=('')
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$((${#words[@]} - 1))
  _shtab_sat
  word=${words[COMP_CWORD]}
  [[ $word == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%:*}:"}")
  return 0
}
complete -o bashdefault -F _sat sat
'''


def all_commands():
    """A parser of all commands with all their flags, for shtab to read; the commands' own parse what is typed."""
    parser = argparse.ArgumentParser(prog='sat', add_help=False)
    commands = parser.add_subparsers()

    def add(place, name, about, *parents):
        return place.add_parser(name, parents=parents, add_help=False, help=about, description=about,
                                conflict_handler='resolve')

    def add_parts(name, parts):
        place = add(commands, name, cli.COMMANDS[name].about).add_subparsers()
        for part, (about, *parents) in parts.items():
            add(place, part, about, *parents)

    judging = _flags_of((EVAL, DIRECTORY), ('eval',))
    judging.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?')
    for name, own in ('train', _flags_of((TRAINING, FAKE, SERVED), _MODES)), ('eval', judging):
        own.add_argument('-h', '--help', '--help-all', action='help')
        add(commands, name, cli.COMMANDS[name].about, own)
    analyses = next(action for action in analysis.get_parser()._actions if action.dest == 'command')
    add_parts('analyze', {
        name: (each.description, *([] if name in analysis.OWN_FLAGS_ONLY else [_flags_of([EVAL], _MODES)]), each)
        for name, each in analyses.choices.items()})
    for name in 'zoo', 'convert':
        modes = cli.load(cli.COMMANDS[name].file).MODES
        add_parts(name, {mode: (what.run.__doc__, mode_parser(name, mode, what)) for mode, what in modes.items()})
    for name in 'serve', 'table', 'completion':
        add(commands, name, cli.COMMANDS[name].about, cli.load(cli.COMMANDS[name].file).get_parser())
    _complete(parser)
    return parser


def _flags_of(modes, but):
    options = [option for option in sections.options()
               if set(modes) & set(option.flag.modes) and option.dest not in but]
    parser = OneLineParser(add_help=False)
    add_flags(parser, options)
    words = {option.dest: TABLES[option.flag.check].words for option in options if option.flag.check in TABLES}
    for action in parser._actions:
        action.choices = action.choices or list(words.get(action.dest, ())) or None
    return parser


def _complete(parser):
    """Say of each action what completes it, and in a few words what it is."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _complete(each)
            continue
        if action.metavar in _VALUES:
            action.complete = _VALUES[action.metavar]
        elif action.dest == 'names' and not action.option_strings:
            action.choices = [model.name for model in published.MODELS]
        action.metavar = action.dest  # zsh has a meaning for signs
        action.help = re.split(r'[;(]', action.help or '')[0].strip() or action.dest


def script(shell):
    """The text of the completion for a shell, one of ``SHELLS``."""
    return shtab.complete(all_commands(), shell) + (_BASH if shell == 'bash' else '\n')


def get_parser():
    parser = OneLineParser(prog=programs.name('completion'), allow_abbrev=False, description=__doc__.split('\n')[0],
                           formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples(__doc__))
    parser.add_argument('shell', choices=SHELLS)
    return parser


def main(argv=None):
    shell = get_parser().parse_args(argv).shell
    print(script(shell), end='')
