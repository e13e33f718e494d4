"""The commands that the documents show: Markdown, programs' docstrings, and the usage of job scripts."""
import ast
import glob
import os
import re
import textwrap
from typing import NamedTuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

MARKDOWN = ('README.md', 'CONTRIBUTING.md', 'docs/*.md', 'tests/fixtures/originals_commands.md')
PROGRAMS = ('*.py', '[!t]*/*.py', 'sat/cli/*.py', 'third_party/*.py', 'tools/*.py', 'training/*.py')
JOB_SCRIPTS = ('slurm/*.sh',)

_PROMPT = re.compile(r'^\s*\w*\$ ')
# The language of a block, which commands have not; the block; an indented one.
_BLOCK = re.compile(r'^```(\w*)\n(.*?)^```$|(?<=\n\n)((?: {4}[^\n]*(?:\n|$))+)', re.DOTALL | re.MULTILINE)
# What comes before a program's name.
_LEADING = re.compile(r'(echo \| )?([A-Z_]+=\S* )*(mpirun (.*? )?(?=\S*python|sat ))?((\S+/)?python3? )?')
# The commands of `sat`, and what does the same.
_SAT = re.compile(r'(?<!\S)(?:python -m )?sat (train|eval|analyze|zoo|convert|serve|table)(?=\s|$)')
_SCRIPTS = {'train': 'python main.py', 'eval': 'python main.py --eval --load', 'analyze': 'python -m analysis',
            'zoo': 'python model_zoo.py', 'convert': 'python convert.py', 'serve': 'third_party/serve-data.py',
            'table': 'python efficientnet/table.py'}
_NO_PROGRAM = ('make', 'pytest', 'sbatch')


class Command(NamedTuple):
    """A command in one line. source: the document's path in the checkout; block: what stands in one block belongs
    together."""
    source: str
    block: int
    text: str

    @property
    def program(self):
        """Its path in the checkout; 'analysis' for ``python -m analysis``; 'make' and such; None for no program."""
        return program_of(self.text)


def as_script(text):
    """A command of `sat` as that of the program which does it; another text as it is."""
    text = re.sub(r'(?<!\S)sat eval (?=--eval-directory )', 'python main.py ', text)
    text = re.sub(r'(?<!\S)sat eval (?=-)', 'python main.py --eval ', text)
    return _SAT.sub(lambda found: _SCRIPTS[found.group(1)], text, count=1)


def program_of(text):
    """What ``text`` runs, see ``Command.program``."""
    text = as_script(text)
    first, *others = text[_LEADING.match(text).end():].split(' ')
    if first == '-m':
        return others[0]
    if first == 'sat' and others:
        return 'sat ' + others[0]
    if first in _NO_PROGRAM:
        return first
    for path in map(os.path.normpath, (first, os.path.join('third_party', first))):
        if path.endswith('.py') and os.path.isfile(os.path.join(ROOT, path)):
            return path
    return None


def documented():
    """Every command of the documents, in their order.

    In a block of code each line is one. Elsewhere it is what begins like one, names a program and gives it an argument.
    """
    found = []
    for patterns, blocks_of in ((MARKDOWN, _markdown), (PROGRAMS, _docstring), (JOB_SCRIPTS, _comments)):
        for path in sorted(path for pattern in patterns for path in glob.glob(os.path.join(ROOT, pattern))):
            with open(path) as f:
                for number, block in enumerate(blocks_of(f.read())):
                    found += [Command(os.path.relpath(path, ROOT), number, text) for text in block]
    return list(dict.fromkeys(found))


def _lines(block):
    """Commands of a block of code: without prompts, comments and breaks within a command."""
    found = []
    for line in textwrap.dedent(block).replace('\\\n', ' ').splitlines():
        line = re.sub(r'(^|\s)#.*', '', _PROMPT.sub('', line))
        if line.strip():
            found.append(' '.join(line.split()))
    return found


def _markdown(text):
    for language, block, indented in _BLOCK.findall(text):
        if not language:
            yield _lines(block or indented)
    for span in re.findall(r'`([^`]+)`', _BLOCK.sub('', text)):
        span = ' '.join(span.split())
        if program_of(span) and ' ' in span:
            yield [span]


def _docstring(text):
    for block in re.findall(r'(?<=\n\n)(?: {4}[^\n]*(?:\n|$))+', ast.get_docstring(ast.parse(text), clean=False) or ''):
        yield [line for line in _lines(block) if program_of(line)]


def _comments(text):
    text = re.sub(r'\\\n# *', '', text)
    yield [' '.join(line.split()) for line in re.findall(r'^# {3,}(\S.*)', text, re.MULTILINE) if program_of(line)]
