"""What the benchmarks share: measurements in turn, a Markdown table, a JSON file.

The file holds {"command", "machine", "date", "rows": [{"name", "median", "spread": [lowest, highest], "ratio"}]}. A
ratio says how many times better a row is than its reference: above 1 is faster, or needs less. It is the median of the
ratios of each round, because two measurements next to each other saw the same machine.
"""
import argparse
import contextlib
import datetime
import glob
import itertools
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from typing import NamedTuple

_RESULT = 'measured: '  # begins the line with which a measuring process ends


class Quantity(NamedTuple):
    """What is measured: its name with the unit, digits behind the point, and which way is better."""
    name: str
    digits: int = 2
    higher_is_better: bool = True


def add_flags(parser, repeats=5):
    """The flags that every benchmark has: --repeats and --json."""
    parser.add_argument('--repeats', type=positive, default=repeats, metavar='N',
                        help='measurements of each, in turn (default: %(default)s)')
    parser.add_argument('--json', type=new_file, metavar='FILE', help='write the figures there as well (default: no)')


def positive(text):
    """An int of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("'{}' is no whole number above 0".format(text))
    return int(text)


def new_file(path):
    """The path of a file that can be written, for argparse: said now, not after minutes of measuring."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError("'{}': its folder is not there, or not writable".format(path))
    return path


class Variant(NamedTuple):
    """A way of running a program: its name, its flags, and what it finds in its environment."""
    name: str
    flags: list
    environment: dict = {}


def variant(text):
    """The Variant of 'name: VARIABLE=value ... flags', for argparse; split as a shell does, variables come first."""
    name, colon, words = text.partition(':')
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("'{}' is no 'name: flags'".format(text))
    try:
        words = shlex.split(words)
    except ValueError as error:
        raise argparse.ArgumentTypeError("'{}': {}".format(text, error))
    variables = list(itertools.takewhile(re.compile(r'[A-Za-z_]\w*=').match, words))
    return Variant(name.strip(), words[len(variables):], dict(word.split('=', 1) for word in variables))


def interleaved(variants, repeats, measure):
    """Measure each variant once, then each once more, and so on.

    Args:
        variants (iterable of names). repeats (int). measure: name -> {name of a quantity: number}.
    Returns:
        dict: {variant: {name of a quantity: list of ``repeats`` numbers}}.
    """
    found = {}
    for _ in range(repeats):
        for name in variants:
            for quantity, value in measure(name).items():
                found.setdefault(name, {}).setdefault(quantity, []).append(value)
    return found


def run(command, environment=()):
    """Run a measuring process of its own.

    Args:
        command (list of str). environment (dict): added to this process's.
    Returns:
        what the process gave to ``say`` last.
    Raises:
        SystemExit: it failed; says how, its own message is on stderr.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ, **dict(environment)))
    lines = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
    if done.returncode or not lines:
        _failed(done.returncode, command)
    return json.loads(lines[-1][len(_RESULT):])


def hear(process):
    """What a process, made by ``subprocess.Popen`` with text in a pipe, gives to ``say`` next; fails like ``run``."""
    for result in said(process.stdout):
        return result
    _failed(process.wait(), process.args)


def said(lines):
    """What a process gives to ``say``, one by one, out of all the lines that it prints."""
    for line in lines:
        if line.startswith(_RESULT):
            yield json.loads(line[len(_RESULT):])


@contextlib.contextmanager
def started(commands):
    """{name: process} of measuring processes that wait for their turns; they end with the block.

    Args:
        commands (dict): {name: (command, environment)} as ``run`` takes them, of programs that say 'ready', and then
            a result for every line that they read.
    """
    with contextlib.ExitStack() as stack:
        running = {}
        for name, (command, environment) in commands.items():
            running[name] = stack.enter_context(subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=dict(os.environ, **dict(environment))))
            stack.callback(running[name].terminate)
            hear(running[name])  # one after another: PyTorch's compiler uses all cores
        yield running


def turn(process):
    """What a process of ``started`` says of its next turn."""
    process.stdin.write('\n')
    process.stdin.flush()
    return hear(process)


def _failed(code, command):
    sys.exit('{}: error: exit code {} of: {}'.format(
        os.path.basename(sys.argv[0]), code, ' '.join(map(shlex.quote, command))))


def say(result):
    """Hand a JSON-ready result to the process that called ``run``."""
    print('\n' + _RESULT + json.dumps(result), flush=True)


def resident():
    """The most memory that this process has had so far, in bytes; ``getrusage`` counts what its parent had, too."""
    with open('/proc/self/status') as f:
        return next(1024 * int(line.split()[1]) for line in f if line.startswith('VmHWM:'))


def rows(found, quantities, reference=None):
    """The JSON file's rows.

    Args:
        found: as ``interleaved`` returns it. quantities (list of Quantity).
        reference: variant -> the variant it is compared with, or None for no row; default: the first, for all.
    Returns:
        list of dict: variant by variant; with several quantities a row's name is 'variant: quantity'.
    """
    first = next(iter(found))
    made = []
    for name, measured in found.items():
        other = reference(name) if reference else first
        for quantity in quantities * (other is not None):
            values = measured[quantity.name]
            pairs = zip(values, found[other][quantity.name])
            made.append({'name': name if len(quantities) == 1 else '{}: {}'.format(name, quantity.name),
                         'median': statistics.median(values), 'spread': [min(values), max(values)],
                         'ratio': statistics.median(
                             own / other if quantity.higher_is_better else other / own for own, other in pairs)})
    return made


def table(variants, quantities, made):
    """The Markdown table: a line for each variant, for each quantity its figures and its ratios.

    ``made``: {a reference in words: ``rows`` with it}; the first has a row for every variant.
    """
    cells = ['variant']
    for quantity in quantities:
        cells += [quantity.name] + [('times {}' if quantity.higher_is_better else '{} over this').format(against)
                                    for against in made]
    lines = [cells]
    by_name = [{row['name']: row for row in of_one} for of_one in made.values()]
    for name in variants:
        cells = [name]
        for quantity in quantities:
            found = [of_one.get(name if len(quantities) == 1 else '{}: {}'.format(name, quantity.name))
                     for of_one in by_name]
            cells += [spread(found[0], quantity)] + ['{:.2f}'.format(row['ratio']) if row else '' for row in found]
        lines.append(cells)
    return markdown(lines)


def spread(row, quantity):
    """'median (lowest to highest)'."""
    return '{:,.{d}f} ({:,.{d}f} to {:,.{d}f})'.format(row['median'], *row['spread'], d=quantity.digits)


def markdown(lines):
    """A Markdown table of lists of cells, the first of which is the head."""
    lines = [lines[0], ['---'] * len(lines[0])] + lines[1:]
    return '\n'.join('| {} |'.format(' | '.join(cells)) for cells in lines)


def report(found, quantities, json_file=None, references=None):
    """Print the table of what was found, and write the JSON file if it has a name.

    ``references``: {a reference in words: see ``rows``}, default: {'the first': None}. In the file a row's ratio is to
    the first of them; rows with those to another one are named 'variant, times <the reference in words>'.
    """
    made = {against: rows(found, quantities, reference) for against, reference in (references or {
        'the first': None}).items()}
    print(table(found, quantities, made), flush=True)
    if json_file:
        first, *others = made
        write(json_file, made[first] + [dict(row, name='{}, times {}'.format(row['name'], against))
                                        for against in others for row in made[against]])


def write(json_file, made):
    """Write a benchmark's rows, whole or not at all."""
    write_json(json_file, dict({'command': ' '.join(map(shlex.quote, sys.argv))}, **where_and_when(), rows=made))


def where_and_when():
    """The fields of a file that say on what machine and day it was measured."""
    return {'machine': machine(), 'date': datetime.date.today().isoformat()}


def write_json(path, content):
    """Write a JSON file, whole or not at all."""
    partial = '{}.{}.partial'.format(path, os.getpid())
    with open(partial, 'w', encoding='utf-8') as target:
        json.dump(content, target, indent=1)
        target.write('\n')
    os.replace(partial, path)


def machine():
    """The cores that this process may use, and the GPUs, in words."""
    from machine.processors import processor_name  # a Python that has PyTorch alone imports this module as well
    gpus = []
    for path in sorted(glob.glob('/proc/driver/nvidia/gpus/*/information')):
        with open(path) as f:
            gpus += [line.split(':')[1].strip() for line in f if line.startswith('Model')]
    return '{} cores of {}, {}'.format(len(os.sched_getaffinity(0)), processor_name(), ', '.join(gpus) or 'no GPU')
