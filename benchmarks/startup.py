#!/usr/bin/env python
"""Seconds from the training command to the beginning and the end of its first step, by phases, and the size of the
graph and of the process, with 1, 3 and 11 evaluation attackers.

    .venv/bin/python benchmarks/startup.py --json startup.json
    .venv/bin/python benchmarks/startup.py --repeats 3 --arch EfficientNet --batch 8

All flags of main.py that say what to train are understood; without any it is ResNet-50 at 224, batch 8, PGD-4. The
variants run in turn, each in its own process. Prints a Markdown table of medians.
"""
import argparse
import os
import sys
import tempfile
import time

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import measure

MIB = 1 << 20
DEFAULTS = ['--arch', 'ResNet', '-d', '50', '--batch', '8', '--attack-iter', '4']
# Evaluation attackers to the numbers of steps of all but the first one, which has 10: 11 is the Feature Denoising
# release's number of evaluations.
VARIANTS = {'1 evaluation attacker': '', '3 evaluation attackers': '50,100',
            '11 evaluation attackers': '5,15,20,30,40,50,60,70,80,100'}
PHASES = ('imports, s', 'graph, s', 'session, s', 'first step, s')
QUANTITIES = [measure.Quantity(name, digits, higher_is_better=False) for name, digits in [
    *((phase, 1) for phase in PHASES), ('to the first step, s', 1), ('to its end, s', 1), ('operations', 0),
    ('graph, MiB', 2), ('peak, MiB', 0)]]


def run_first_step(flags, begin):
    """Run ``main.py`` with ``flags`` in this process up to the end of its first step, then say what was measured.

    ``begin`` (float): when the command was given, as of ``time.time``. The phases: ``imports``; ``graph``, with flags
    and data before it; ``session``, with the variables' first values; ``first step``, which also optimises the graph.
    """
    from commands.command_line import parse_args
    from commands.run import run
    ends = [time.time()]
    import tensorflow.compat.v1 as tf
    from tensorpack.train import Trainer
    initialize, run_step = Trainer.initialize, Trainer.run_step

    def initialize_on_time(self, *args):
        ends.append(time.time())
        initialize(self, *args)
        ends.append(time.time())

    def run_step_and_end(self):
        run_step(self)
        ends.append(time.time())
        graph = tf.get_default_graph()
        phases = (end - start for start, end in zip([begin] + ends, ends))
        measure.say(dict(zip(PHASES, phases), **{
            'to the first step, s': ends[-2] - begin, 'to its end, s': ends[-1] - begin,
            'operations': len(graph.get_operations()), 'graph, MiB': graph.as_graph_def().ByteSize() / MIB,
            'peak, MiB': measure.resident() / MIB}))
        os._exit(0)  # without the rest of the run, its evaluation and its checkpoint
    Trainer.initialize, Trainer.run_step = initialize_on_time, run_step_and_end
    run(parse_args(flags))


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0], allow_abbrev=False)
    measure.add_flags(parser)
    parser.add_argument('--one', type=float, help=argparse.SUPPRESS)
    own, flags = parser.parse_known_args()
    if own.one:
        run_first_step(flags, own.one)
    flags = flags or DEFAULTS
    with tempfile.TemporaryDirectory() as folder:
        write_images(os.path.join(folder, 'data'))
        run = ['--data', os.path.join(folder, 'data'), '--logdir', os.path.join(folder, 'run')]

        def one(name):
            more = ['--more-eval-attack-iter', VARIANTS[name]] if VARIANTS[name] else []
            return measure.run([sys.executable, __file__, '--one', str(time.time())] + run + more + flags)
        found = measure.interleaved(VARIANTS, own.repeats, one)
    measure.report(found, QUANTITIES, own.json)


if __name__ == '__main__':
    main()
