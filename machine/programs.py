"""How this project's programs are typed: by their files' names or as commands of ``sat``, as who started this process
did."""
import os
import re
import shlex
import shutil
import sys
from typing import List, Sequence, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The programs as documents and messages spell them, and the commands of ``sat`` that do the same; where one's words
# begin another's, the longer is first.
SAME = {'main.py --eval --load': 'eval', 'main.py --eval-directory': 'eval --eval-directory', 'main.py --eval': 'eval',
        'main.py': 'train', 'model_zoo.py': 'zoo', 'convert.py': 'convert', 'third_party/serve-data.py': 'serve',
        'efficientnet/table.py': 'table', '-m analysis': 'analyze'}
_SPELT = re.compile(r'((?:\.venv/bin/)?python )({})(?=\s|$)'.format('|'.join(map(re.escape, SAME))))

_sat: Tuple[str, ...] = ()  # the words that start ``sat``; none where it was not typed


def typed_as_sat(start: Sequence[str], command: str, words: Sequence[str]) -> None:
    """Say that this process is a command of ``sat``; messages then begin with 'sat COMMAND: '.

    Args:
        start: the words that start ``sat``. words: what was typed behind the command.
    """
    global _sat
    _sat = tuple(start)
    sys.argv = ['sat ' + command, *words]


def name(program: str) -> str:
    """What a program calls itself in messages, where it is not a command of ``sat``: ``program``."""
    return sys.argv[0] if _sat else program


def command() -> List[str]:
    """The words that started this process; a script's begin with its file, without Python."""
    if _sat:
        return [*_sat, *sys.argv[0].split()[1:], *sys.argv[1:]]
    # A module's, as ``python -m analysis``, stands in one word.
    return [*sys.argv[0].split(), *sys.argv[1:]] if sys.argv[0].startswith('python -m ') else list(sys.argv)


def to_type() -> str:
    """What to type to start this process again."""
    words = command()
    return shlex.join(words if _sat or words[0] == 'python' else ['python', *words])


def spelt(text: str) -> str:
    """A command of one of the programs, as it works for who started this process: of ``sat``, or with the path of the
    program's file from where we are.

    Args:
        text (str): as 'mpirun -np 2 python main.py --eval --load CKPT'; '.venv/bin/python' may stand for 'python'.
    """
    return _SPELT.sub(lambda found: _here(*found.groups()), text, count=1)


def _here(python: str, program: str) -> str:
    if _sat:
        return '{} {}'.format(shlex.join(_sat), SAME[program])
    file, *words = program.split(' ')
    path = os.path.join(ROOT, file)
    if file == '-m' or os.path.realpath(file) == os.path.realpath(path):
        return python + program
    if python.startswith('.venv'):
        python = shlex.quote(sys.executable) + ' '
    return python + ' '.join([shlex.quote(path), *words])


def how_sat_was_typed() -> List[str]:
    """The words that start ``sat``: its name where the shell finds it, else where it is; or Python's with it."""
    if os.path.basename(sys.argv[0]) == '__main__.py':
        return [_as_found('python', sys.executable), '-m', 'sat']
    return [_as_found('sat', sys.argv[0])]


def _as_found(word: str, path: str) -> str:
    found = shutil.which(word)
    return word if found and os.path.realpath(found) == os.path.realpath(path) else path
