"""``sat COMMAND ...``: every program by one name, from any folder.

Each command hands its words to the program's own main function; it has no parser and no flags of its own.

    sat zoo list
    sat eval zoo:Res50-silu --data /path/to/imagenet
    sat train --data cifar10 --arch CifarResNet -d 8 --batch 64
"""
import importlib.util
import os
import shlex
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from commands.first_look import first_look, load_flag_first
from machine import programs
from machine.names_only import names_only, names_only_for_help
from ranks.end import fail
from ranks.launched import launched_rank
from settings.nearest import did_you_mean

DESCRIPTION = 'Smooth Adversarial Training: train networks under attack, and judge them.'
EXAMPLES = __doc__.split('\n\n')[-1].strip().split('\n')
_JUDGING = ('--eval', '--eval-directory')


class Command(NamedTuple):
    """about: in a line. file: of the program, from the checkout. words: what is typed to what its main function takes.
    called (tuple): other names, by which it is looked for."""
    about: str
    file: str
    words: Callable[[List[str]], List[str]] = list
    called: Tuple[str, ...] = ()


def _to_train(words: List[str]) -> List[str]:
    for word in words:
        if word.split('=')[0] in _JUDGING:
            fail('{}: this trains; type {} CHECKPOINT'.format(word, programs.spelt('python main.py --eval --load')),
                 launched_rank() or 0)
    first_look(words)
    return words


def _to_judge(words: List[str]) -> List[str]:
    """``CHECKPOINT``, in any place, is ``--load CHECKPOINT``; with --eval-directory there is no evaluation."""
    words = load_flag_first(words)
    if not any(word.split('=')[0] in _JUDGING for word in words):
        words = ['--eval', *words]
    first_look(words)
    return words


def _to_complete(words: List[str]) -> List[str]:
    names_only()
    return words


COMMANDS: Dict[str, Command] = {
    'train': Command('train a network, under attack or not', 'main.py', _to_train, ('fit', 'finetune')),
    'eval': Command('judge one, clean and under attack: eval CHECKPOINT', 'main.py', _to_judge,
                    ('evaluate', 'test', 'val', 'judge', 'attack', 'predict', 'classify')),
    'analyze': Command('is a robustness figure to be believed?', 'analysis/__main__.py',
                       called=('analyse', 'analysis', 'report')),
    'zoo': Command('the published checkpoints: list, download, verify', 'model_zoo.py',
                   called=('models', 'download', 'list', 'verify')),
    'convert': Command("weights in another form: PyTorch's, TensorFlow's, a SavedModel", 'convert.py',
                       called=('export',)),
    'serve': Command('read and augment images for trainings of several processes', 'third_party/serve-data.py',
                     called=('server', 'data', 'serve-data')),
    'table': Command("EfficientNet's sizes: parameters and multiply-adds", 'efficientnet/table.py', called=('sizes',)),
    'completion': Command('of all this by the Tab key, for bash, zsh or fish', 'sat/cli/completion.py', _to_complete,
                          called=('completions', 'complete', 'autocomplete')),
}


def load(file: str) -> Any:
    """The module of a program's file: not by its name, of which the reader's folder may have another."""
    spec = importlib.util.spec_from_file_location(file[:-len('.py')].replace('/', '.'),
                                                  os.path.join(programs.ROOT, file))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def screen(sat: str) -> str:
    """What ``sat`` says of itself, where it is typed as ``sat``."""
    lines = ['usage: {} COMMAND ...'.format(sat), '', DESCRIPTION, '']
    lines += ['  {:<12}{}'.format(name, command.about) for name, command in COMMANDS.items()]
    lines += ['', 'examples:', *('  {}{}'.format(sat, line.strip()[len('sat'):]) for line in EXAMPLES), '',
              '{0} COMMAND -h: its most-used flags; {0} COMMAND --help-all: all flags'.format(sat)]
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> Any:
    """Run a command. Args: argv (list of str): default sys.argv[1:]. Returns: the exit code; None for a good end."""
    start = programs.how_sat_was_typed()
    name, *words = list(sys.argv[1:] if argv is None else argv) or ['-h']
    if name in ('-h', '--help', '--help-all', 'help'):
        print(screen(shlex.join(start)))
        return 0
    if name not in COMMANDS:
        sys.argv[0] = 'sat'
        others = {other: known for known, command in COMMANDS.items() for other in command.called}
        fail('there is no command {}{}; {} -h has all'.format(
            name, did_you_mean(name, COMMANDS, others), shlex.join(start)), launched_rank() or 0)
    programs.typed_as_sat(start, name, words)
    command = COMMANDS[name]
    try:
        words = command.words(words)
        names_only_for_help(words)
        return load(command.file).main(words)
    except KeyboardInterrupt:
        return 130
