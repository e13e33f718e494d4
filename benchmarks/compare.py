#!/usr/bin/env python
"""Run the benchmarks in short and compare their ratios with those in benchmarks/baselines/: `make bench`.

    .venv/bin/python benchmarks/compare.py
    .venv/bin/python benchmarks/compare.py --only train_speed scaling
    .venv/bin/python benchmarks/compare.py --runs 3 --write-baseline

Each benchmark prints its table and writes FOLDER/<name>.json, of further runs FOLDER/<name>-<number>.json. Then comes
one table of all ratios, each the median of its runs. A benchmark with a ratio that fell by more than 5% is run twice
again, as one run alone may fall so far by chance; the exit code is 1 if the median of the three fell too, or a
benchmark failed. A ratio is taken within one run, so that it says something on another machine than the baseline's as
well; but precisions and layouts have other ratios on other processors, so that each generation of processors
(machine/processors.py) has a baseline of its own, and machines with a GPU one.
"""
import argparse
import glob
import importlib.metadata
import json
import os
import shlex
import statistics
import subprocess
import sys

import measure
from machine.quiet_tensorflow import quieten_tensorflow

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
_SMALL = '--arch CifarResNet -d 20 --activation-name silu --batch 32 '
# Whole steps.
_STEPS = ('--stay --repeats 3 --steps 1 --batch 8 '
          "--variant 'float32: --attack-precision float32 --update-precision float32' --variant default: ")
# Programs and their flags: about 25 minutes in all on 2 cores.
BENCHMARKS = {
    'attack_speed': 'attack_speed',
    'attack_speed_efficientnet': 'attack_speed --arch EfficientNet',
    'attack_speed_convnext': 'attack_speed --repeats 3 --arch ConvNeXt',
    'attack_speed_vit': 'attack_speed --repeats 3 --arch ViT',
    'startup': 'startup --repeats 2',
    'train_speed': 'train_speed ' + _SMALL + "--variant 'clean: --attack-iter 0' --variant 'PGD-1: --attack-iter 1' "
                            "--variant 'PGD-4: --attack-iter 4'",
    'step_resnet50_pgd1': 'train_speed ' + _STEPS + '--attack-iter 1',
    'step_resnet50_pgd3': 'train_speed ' + _STEPS + '--attack-iter 3',
    'step_efficientnet_b0': 'train_speed ' + _STEPS + '--arch EfficientNet',
    'step_convnext_t': 'train_speed ' + _STEPS + '--arch ConvNeXt',
    'step_vit_s': 'train_speed ' + _STEPS + '--arch ViT',
    'memory': 'memory ' + _SMALL + "--attack-iter 1 --variant plain: --variant 'recompute: --recompute' "
                       "--variant 'accumulate 4: --accumulate 4'",
    'scaling': 'scaling ' + _SMALL + '--attack-iter 1 --timeline',
    'zmq_throughput': 'zmq_throughput --receivers 1 --seconds 2 --repeats 9 '
                      "--ways bare op 'op, written'",
}
# PyTorch's steps beside them, where there is PyTorch: of each precision the fastest way of those that need no compiler.
_NORMED, _UNNORMED = ['float32, folded copy', 'bfloat16 autocast, folded copy'], ['float32', 'bfloat16 autocast']
TORCH_WAYS = {'step_resnet50_pgd1': _NORMED, 'step_resnet50_pgd3': _NORMED, 'step_efficientnet_b0': _NORMED,
              'step_convnext_t': _UNNORMED, 'step_vit_s': _UNNORMED}
_TORCH_VERSION = "import importlib.metadata; print(importlib.metadata.version('torch'))"
TOLERANCE = 0.05  # part of a ratio that may be lost
AGAIN = 2  # further runs of a benchmark of which a ratio lost more
OTHERS = ('PyTorch',)  # how rows of others' code begin, whose speed is not ours to keep


def command(name, json_file, torch_python=None):
    """The command of a benchmark; ``torch_python``: a Python with PyTorch for those that compare with it."""
    program, *flags = shlex.split(BENCHMARKS[name])
    if torch_python and (program == 'attack_speed' or name in TORCH_WAYS):
        flags += ['--torch-python', torch_python]
    if torch_python and name in TORCH_WAYS:
        flags += ['--torch-ways', *TORCH_WAYS[name]]
    return [sys.executable, os.path.join(HERE, program + '.py'), *flags, '--json', json_file]


def measured_ratios(folder, names):
    """{benchmark: {row: ratio}} of the files that are in the folder, each the median of its runs."""
    found = {}
    for name in names:
        ratios = {}
        for path in _of_runs(folder, name):
            for row in _read(path)['rows']:
                ratios.setdefault(row['name'], []).append(row['ratio'])
        if ratios:
            found[name] = {row: statistics.median(values) for row, values in ratios.items()}
    return found


def _file(folder, name, number):
    """Of a benchmark's run of that number, from 1."""
    return os.path.join(folder, name + ('-{}'.format(number) if number > 1 else '') + '.json')


def _of_runs(folder, name):
    """The files that are there of a benchmark's runs."""
    first = _file(folder, name, 1)
    return [first] * os.path.isfile(first) + _further(folder, name)


def _further(folder, name):
    return glob.glob(os.path.join(glob.escape(folder), name + '-[0-9]*.json'))


def _read(path):
    with open(path) as f:
        try:
            return json.load(f)
        except ValueError as error:
            sys.exit("compare.py: error: '{}' is no JSON file: {}".format(path, error))


def judge(before, now):
    """Compare {benchmark: {row: ratio}} with those of the baseline, of the benchmarks that are in ``now``.

    Returns:
        lines: cells of a table, the first line is its head. fallen (list of str): the benchmark of each ratio that fell
        by more than TOLERANCE, others' code left out.
    """
    lines, fallen = [['benchmark', 'row', 'baseline', 'now', 'change', '']], []
    for name, ratios in now.items():
        known = before.get(name, {})
        for row, ratio in ratios.items():
            cells = [name, row, '', '{:.2f}'.format(ratio), '', 'not in the baseline']
            if row in known:
                fell = ratio < (1 - TOLERANCE) * known[row] and not row.startswith(OTHERS)
                fallen += [name] * fell
                cells[2], cells[4:] = '{:.2f}'.format(known[row]), ['{:+.1%}'.format(ratio / known[row] - 1),
                                                                    '**fell**' if fell else '']
            lines.append(cells)
        lines += [[name, row, '{:.2f}'.format(ratio), '', '', 'not measured']
                  for row, ratio in known.items() if row not in ratios]
    return lines, fallen


def run(names, folder, torch_python=None, number=1):
    """Run benchmarks, one after another; ``number`` 1 takes away the files of earlier further runs.

    Returns:
        the names of those that failed.
    """
    os.makedirs(folder, exist_ok=True)
    failed = []
    for name in names:
        for path in _further(folder, name) if number == 1 else ():
            os.remove(path)
        words = command(name, _file(folder, name, number), torch_python)
        print('\n{}: {}\n'.format(name, ' '.join(map(shlex.quote, words[1:]))), flush=True)
        if subprocess.run(words).returncode:
            failed.append(name)
    return failed


def kind():
    """Which baseline this machine's ratios are compared with."""
    quieten_tensorflow()
    import tensorflow.compat.v1 as tf

    from machine.processors import processor_generation
    return 'gpu' if tf.config.list_physical_devices('GPU') else processor_generation()


def versions(torch_python):
    """Of TensorFlow, and of PyTorch where another Python has it; JSON-ready."""
    found = {'tensorflow': next(each.version for name in ('tensorflow', 'tensorflow-cpu')
                                for each in importlib.metadata.distributions(name=name))}
    if torch_python:
        found['torch'] = subprocess.run([torch_python, '-c', _TORCH_VERSION], stdout=subprocess.PIPE, text=True,
                                        check=True).stdout.strip()
    return found


def told(baseline):
    """Where and when a baseline was measured, in a line."""
    return 'baseline: {}, {}{}'.format(baseline['machine'], baseline['date'], ''.join(
        ', {} {}'.format(*each) for each in baseline.get('versions', {}).items()))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--only', nargs='+', choices=list(BENCHMARKS), default=list(BENCHMARKS), metavar='NAME',
                        help='(default: {})'.format(' '.join(BENCHMARKS)))
    parser.add_argument('--folder', default=os.path.join(ROOT, 'bench'), help='of the JSON files (default: bench)')
    parser.add_argument('--baseline', metavar='FILE',
                        help="(default: benchmarks/baselines/KIND.json; of this machine's generation)")
    parser.add_argument('--torch-python', metavar='PROGRAM', help='a Python that has PyTorch, to measure it too '
                        '(default: this one if it has, for the attack alone)')
    runs = parser.add_mutually_exclusive_group()
    runs.add_argument('--runs', type=measure.positive, default=1, metavar='N',
                      help='of everything, one after another (default: %(default)s)')
    runs.add_argument('--no-run', action='store_true', help='compare the files that are in the folder already')
    parser.add_argument('--write-baseline', action='store_true', help='make these ratios the baseline')
    return parser.parse_args()


def measured(args, known):
    """Run what is asked for, and again where something fell.

    Returns:
        {benchmark: {row: ratio}}; the names of the benchmarks that failed.
    """
    failed = set()
    if args.no_run:
        return measured_ratios(args.folder, args.only), failed
    for number in range(1, args.runs + 1):
        failed.update(run(args.only, args.folder, args.torch_python, number))
    # One that failed says nothing, and may have left a file.
    names = [name for name in args.only if name not in failed]
    fallen = judge(known, measured_ratios(args.folder, names))[1]
    again = [name for name in names if name in fallen and not args.write_baseline]
    if again:
        print('\nfell by more than {:.0%}, and run again: {}'.format(TOLERANCE, ', '.join(again)), flush=True)
    for number in range(args.runs + 1, args.runs + 1 + AGAIN):
        failed.update(run(again, args.folder, args.torch_python, number))
    return measured_ratios(args.folder, [name for name in names if name not in failed]), failed


def main():
    args = parse_args()
    path = args.baseline or os.path.join(HERE, 'baselines', kind() + '.json')
    baseline = _read(path) if os.path.isfile(path) else None
    known = baseline['ratios'] if baseline else {}
    now, failed = measured(args, known)
    lines, fallen = judge(known, now)
    print('\n' + measure.markdown(lines))
    none = "baseline: none for this kind of machine; `make bench-baseline` makes '{}'"
    print('\n' + (told(baseline) if baseline else none.format(path)))
    print('now: {}'.format(measure.machine()), flush=True)
    if failed or not now:
        sys.exit('compare.py: error: ' + ('failed: {}'.format(', '.join(sorted(failed))) if failed else
                                          "no figures in '{}'".format(args.folder)))
    if args.write_baseline:
        measure.write_json(path, dict(measure.where_and_when(), versions=versions(args.torch_python),
                                      ratios=dict(known, **now)))
    elif fallen:
        sys.exit('compare.py: {} of the ratios fell by more than {:.0%}'.format(len(fallen), TOLERANCE))


if __name__ == '__main__':
    main()
