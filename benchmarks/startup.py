#!/usr/bin/env python
"""Seconds from the training command to the beginning and the end of its first step, by phases, and the size of the
graph and of the process, with 1, 3 and 11 evaluation attackers.

    .venv/bin/python benchmarks/startup.py --json startup.json
    .venv/bin/python benchmarks/startup.py --repeats 3 --arch EfficientNet --batch 8

All flags of main.py that say what to train are understood; without any it is ResNet-50 at 224, batch 8, PGD-4. The
variants run in turn, each in its own process. Prints a Markdown table of medians.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

MIB = 1 << 20
DEFAULTS = ['--arch', 'ResNet', '-d', '50', '--batch', '8', '--attack-iter', '4']
# Evaluation attackers to the numbers of steps of all but the first one, which has 10: 11 is the Feature Denoising
# release's number of evaluations.
VARIANTS = {1: '', 3: '50,100', 11: '5,15,20,30,40,50,60,70,80,100'}
PHASES = ('imports', 'graph', 'session', 'first step')


def measure(flags, begin):
    """Run ``main.py`` with ``flags`` in this process up to the end of its first step, then print what was measured.

    ``begin`` (float): when the command was given, as of ``time.time``. The phases: ``imports``; ``graph``, with flags
    and data before it; ``session``, with the variables' first values; ``first step``, which also optimises the graph.
    """
    import commands
    import main
    ends = [time.time()]
    import tensorflow.compat.v1 as tf
    from tensorpack.train import Trainer
    initialize, run_step = Trainer.initialize, Trainer.run_step

    def initialize_on_time(self, *args):
        ends.append(time.time())
        initialize(self, *args)
        ends.append(time.time())

    def run_first_step(self):
        run_step(self)
        ends.append(time.time())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
        graph = tf.get_default_graph()
        print(json.dumps(dict(
            zip(PHASES, (end - start for start, end in zip([begin] + ends, ends))),
            before_first_step=ends[-2] - begin, after_first_step=ends[-1] - begin, operations=len(graph.get_operations()), graph_mib=graph.as_graph_def().ByteSize() / MIB, peak_mib=peak)))
        sys.stdout.flush()
        os._exit(0)  # without the rest of the run, its evaluation and its checkpoint
    Trainer.initialize, Trainer.run_step = initialize_on_time, run_first_step
    commands.run(main.parse_args(flags))


def write_images(folder):
    """A data set of two classes, sixteen images to train on and two to judge by."""
    import cv2
    import numpy as np
    random = np.random.default_rng(0)
    for split, count in (('train', 16), ('val', 2)):
        for number in range(count):
            path = os.path.join(folder, split, 'ab'[number % 2], '{}.jpg'.format(number))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            cv2.imwrite(path, random.integers(0, 256, [256, 256, 3], dtype=np.uint8))


def run_variant(flags, folder, number):
    """One run with ``VARIANTS``'s ``number`` of evaluation attackers; its log goes to ``folder``."""
    more = ['--more-eval-attack-iter', VARIANTS[number]] if VARIANTS[number] else []
    run = ['--data', os.path.join(folder, 'data'), '--logdir', os.path.join(folder, 'run')]
    found = subprocess.run([sys.executable, __file__, '--one', str(time.time())] + run + more + flags,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if found.returncode:
        sys.exit('startup.py: error: {}'.format(found.stderr.strip().split('\n')[-1]))
    return json.loads(found.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--repeats', type=int, default=5, help='runs of each variant (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write all runs there')
    parser.add_argument('--one', type=float, help=argparse.SUPPRESS)
    own, flags = parser.parse_known_args()
    if own.one:
        measure(flags, own.one)
    flags = flags or DEFAULTS
    runs = {number: [] for number in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        write_images(os.path.join(folder, 'data'))
        for _ in range(own.repeats):
            for number in VARIANTS:
                runs[number].append(run_variant(flags, folder, number))
    if own.json:
        with open(own.json, 'w') as f:
            json.dump({'flags': flags, 'evaluation_attackers': runs}, f, indent=1)
    seconds = PHASES + ('before_first_step', 'after_first_step')
    columns = ['evaluation attackers'] + [name.replace('_', ' ') + ', s' for name in seconds] + [
        'lowest - highest', 'operations', 'graph, MiB', 'peak, MiB']
    print('| {} |\n|{}'.format(' | '.join(columns), '---|' * len(columns)))
    for number, found in runs.items():
        middle = {name: statistics.median(run[name] for run in found) for name in found[0]}
        totals = [run['after_first_step'] for run in found]
        print('| {} | {} | {:.1f} - {:.1f} | {operations:.0f} | {graph_mib:.2f} | {peak_mib:.0f} |'.format(
            number, ' | '.join('{:.1f}'.format(middle[name]) for name in seconds), min(totals), max(totals), **middle))


if __name__ == '__main__':
    main()
