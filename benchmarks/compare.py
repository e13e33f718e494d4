#!/usr/bin/env python
"""Run the benchmarks in short and compare their ratios with those of benchmarks/baseline.json: `make bench`.

    .venv/bin/python benchmarks/compare.py
    .venv/bin/python benchmarks/compare.py --only train_speed scaling
    .venv/bin/python benchmarks/compare.py --write-baseline

Each benchmark prints its table and writes FOLDER/<name>.json. Then comes one table of all ratios; the exit code is 1 if
one fell by more than 10%, or a benchmark failed. A ratio is taken within one run, so that it says something on another
machine than the baseline's as well; precisions and layouts have other ratios on other processors, though.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys

import measure

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
_SMALL = '--arch CifarResNet -d 20 --activation-name silu --batch 32 '
# Programs and their flags: about 20 minutes in all on 2 cores.
BENCHMARKS = {
    'attack_speed': 'attack_speed',
    'attack_speed_efficientnet': 'attack_speed --arch EfficientNet',
    'attack_speed_convnext': 'attack_speed --repeats 3 --arch ConvNeXt',
    'attack_speed_vit': 'attack_speed --repeats 3 --arch ViT',
    'startup': 'startup --repeats 2',
    'train_speed': 'train_speed ' + _SMALL + "--variant 'clean: --attack-iter 0' --variant 'PGD-1: --attack-iter 1' "
                            "--variant 'PGD-4: --attack-iter 4'",
    'memory': 'memory ' + _SMALL + "--attack-iter 1 --variant plain: --variant 'recompute: --recompute' "
                       "--variant 'accumulate 4: --accumulate 4'",
    'scaling': 'scaling ' + _SMALL + '--attack-iter 1 --timeline',
    'zmq_throughput': 'zmq_throughput --receivers 1 --seconds 2 --repeats 9 '
                      "--ways bare op 'op, written'",
}
TOLERANCE = 0.10  # part of a ratio that may be lost
OTHERS = ('PyTorch',)  # how rows of others' code begin, whose speed is not ours to keep


def command(name, json_file, torch_python=None):
    """The command of a benchmark; ``torch_python``: a Python with PyTorch for those that compare with it."""
    program, *flags = shlex.split(BENCHMARKS[name])
    if program == 'attack_speed' and torch_python:
        flags += ['--torch-python', torch_python]
    return [sys.executable, os.path.join(HERE, program + '.py'), *flags, '--json', json_file]


def measured_ratios(folder, names):
    """{benchmark: {row: ratio}} of the files that are in the folder."""
    found = {}
    for name in names:
        path = os.path.join(folder, name + '.json')
        if os.path.isfile(path):
            found[name] = {row['name']: row['ratio'] for row in _read(path)['rows']}
    return found


def _read(path):
    with open(path) as f:
        try:
            return json.load(f)
        except ValueError as error:
            sys.exit("compare.py: error: '{}' is no JSON file: {}".format(path, error))


def judge(before, now):
    """Compare {benchmark: {row: ratio}} with those of the baseline, of the benchmarks that are in ``now``.

    Returns:
        lines: cells of a table, the first line is its head. fallen (int): ratios that fell by more than TOLERANCE,
        others' code left out.
    """
    lines, fallen = [['benchmark', 'row', 'baseline', 'now', 'change', '']], 0
    for name, ratios in now.items():
        known = before.get(name, {})
        for row, ratio in ratios.items():
            cells = [name, row, '', '{:.2f}'.format(ratio), '', 'not in the baseline']
            if row in known:
                fell = ratio < (1 - TOLERANCE) * known[row] and not row.startswith(OTHERS)
                fallen += fell
                cells[2], cells[4:] = '{:.2f}'.format(known[row]), ['{:+.1%}'.format(ratio / known[row] - 1),
                                                                    '**fell**' if fell else '']
            lines.append(cells)
        lines += [[name, row, '{:.2f}'.format(ratio), '', '', 'not measured']
                  for row, ratio in known.items() if row not in ratios]
    return lines, fallen


def run(names, folder, torch_python=None):
    """Run benchmarks, one after another. Returns: the names of those that failed."""
    os.makedirs(folder, exist_ok=True)
    failed = []
    for name in names:
        path = os.path.join(folder, name + '.json')
        words = command(name, path, torch_python)
        print('\n{}: {}\n'.format(name, ' '.join(map(shlex.quote, words[1:]))), flush=True)
        if subprocess.run(words).returncode:
            failed.append(name)
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--only', nargs='+', choices=list(BENCHMARKS), default=list(BENCHMARKS), metavar='NAME',
                        help='(default: {})'.format(' '.join(BENCHMARKS)))
    parser.add_argument('--folder', default=os.path.join(ROOT, 'bench'), help='of the JSON files (default: bench)')
    parser.add_argument('--baseline', default=os.path.join(HERE, 'baseline.json'), metavar='FILE',
                        help='(default: benchmarks/baseline.json)')
    parser.add_argument('--torch-python', metavar='PROGRAM', help="a Python that has PyTorch, for the attack's speed "
                        '(default: this one, if it has)')
    parser.add_argument('--no-run', action='store_true', help='compare the files that are in the folder already')
    parser.add_argument('--write-baseline', action='store_true', help='make these ratios the baseline')
    args = parser.parse_args()
    failed = [] if args.no_run else run(args.only, args.folder, args.torch_python)
    # A benchmark that failed may have left the figures of an earlier run.
    now = measured_ratios(args.folder, [name for name in args.only if name not in failed])
    baseline = _read(args.baseline) if os.path.isfile(args.baseline) else {'ratios': {}}
    lines, fallen = judge(baseline['ratios'], now)
    print('\n' + measure.markdown(lines))
    if 'machine' in baseline:
        print('\nbaseline: {machine}, {date}'.format(**baseline))
    print('now: {}'.format(measure.machine()), flush=True)
    if failed or not now:
        sys.exit('compare.py: error: ' + ('failed: {}'.format(', '.join(failed)) if failed else
                                          "no figures in '{}'".format(args.folder)))
    if args.write_baseline:
        measure.write_json(args.baseline, dict(measure.where_and_when(), ratios=dict(baseline['ratios'], **now)))
    elif fallen:
        sys.exit('compare.py: {} of the ratios fell by more than {:.0%}'.format(fallen, TOLERANCE))


if __name__ == '__main__':
    main()
