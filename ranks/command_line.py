"""Command lines of programs that may run as several ranks: a mistake is one line of the first one, which says what was
meant; the help is one screen, and all of it where that is asked for."""
import argparse
import re
import textwrap
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional, Sequence

from machine import programs
from ranks.end import fail
from ranks.launched import launched_rank
from settings import flags
from settings.nearest import did_you_mean

_COLUMNS = 78  # of a description; argparse leaves two of 80


class OneScreen(argparse.RawDescriptionHelpFormatter):
    """Help without blank lines between the groups of flags, each flag in a line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def format_help(self) -> str:
        return re.sub(r'\n\n(?=[a-z ]+:\n)', '\n', super().format_help())


class OneLineParser(argparse.ArgumentParser):
    """Complains of a command line in one line, on the first rank only, with the name that was meant."""

    def error(self, message: str) -> NoReturn:
        fail(message, launched_rank() or 0)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            known = self._option_string_actions
            meant = [did_you_mean(word.split('=')[0], known, flags.others_names(known)) for word in rest
                     if word.startswith('-')]
            self.error('unrecognized arguments: {}{}'.format(' '.join(rest), next(filter(None, meant), '')))
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            raise argparse.ArgumentError(action, error.message + did_you_mean(str(value), map(
                str, action.choices or ())))


class _Help(argparse.Action):
    """Prints what ``text`` makes of the flags before it, and ends the program."""

    def __init__(self, option_strings: Sequence[str], dest: str, text: Callable[[argparse.Namespace], str],
                 help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self._text = text

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: Optional[str] = None) -> None:
        print(self._text(namespace), end='')
        parser.exit()


def examples(text: str, most: int = 3) -> str:
    """The first commands of a docstring, its indented lines, as they are typed here, for the end of a help."""
    lines = [line.partition('  #')[0].strip() for line in text.split('\n') if line.startswith('    ')]
    return '\n'.join(['examples:', *('  ' + programs.spelt(line) for line in lines[:most])])


# A parser without help: of all flags, or of those that the help of one screen shows where these were typed.
Maker = Callable[[Optional[argparse.Namespace]], OneLineParser]


def helped(make: Maker) -> OneLineParser:
    """The parser of all flags, with ``-h`` for one screen of them and ``--help-all`` for all."""
    parser = make(None)

    def add_to(place: OneLineParser) -> OneLineParser:
        place.add_argument('-h', '--help', action=_Help, text=lambda typed: add_to(make(typed)).format_help(),
                           help='the most-used flags')
        place.add_argument('--help-all', dest='help', action=_Help, text=lambda typed: parser.format_help(),
                           help='all flags')
        return place
    return add_to(parser)


class Mode(NamedTuple):
    """One of a program's modes. run: of its parser and of what is typed behind the mode; the docstring describes it.
    fill: adds flags to a parser, all or (True) those that the help of one screen shows."""
    run: Callable[[OneLineParser, List[str]], Any]
    fill: Callable[[OneLineParser, bool], None]


def mode_parser(program: str, name: str, mode: Mode) -> OneLineParser:
    """The parser of a mode of the program that calls itself ``program``."""
    def make(typed: Optional[argparse.Namespace]) -> OneLineParser:
        parser = OneLineParser(
            prog='{} {}'.format(programs.name(program), name), allow_abbrev=False, add_help=False,
            description=textwrap.fill(mode.run.__doc__ or '', _COLUMNS), formatter_class=OneScreen)
        mode.fill(parser, typed is not None)
        return parser
    return helped(make)


def run_mode(program: str, modes: Dict[str, Mode], description: str, argv: List[str]) -> Any:
    """Run the mode that ``argv`` begins with, on what follows in it.

    Args:
        program (str): as the program calls itself. description (str): its first line is the program's; see
            ``examples`` for the others.
    Returns:
        what the mode returns.
    """
    parser = OneLineParser(
        prog=programs.name(program), description=textwrap.fill(description.split('\n')[0], _COLUMNS),
        allow_abbrev=False, add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=examples(description))
    parser.add_argument('mode', choices=modes, help=' '.join(
        '{}: {}'.format(name, mode.run.__doc__) for name, mode in modes.items()))
    parser.add_argument('-h', '--help', '--help-all', action='help', help='this; behind a mode, its flags')
    name = parser.parse_args(argv[:1]).mode
    return modes[name].run(mode_parser(program, name, modes[name]), argv[1:])
