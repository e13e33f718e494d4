#!/usr/bin/env python
"""Whether a change made the attack loop or the training step faster: another checkout and this one, in turns.

    .venv/bin/python benchmarks/versions.py ../before
    .venv/bin/python benchmarks/versions.py ../before --of attack --attack-precision bfloat16
    .venv/bin/python benchmarks/versions.py ../before --of step --batch 8 --attack-iter 1

The other one is a folder with this project at another commit (`git worktree add`), in which `make setup` was run. Both
take the same flags of main.py; for the attack, those that attack_speed.py would take by default. The two are up at
once and take turns. Prints a Markdown table, and the median ratio of a turn with an interval that covers it in 95% of
such measurements: if 1 lies in it, no difference was seen. That is what to ask where `make bench` says that a ratio
fell, as two runs of one benchmark may differ by more than two versions do.
"""
import argparse
import math
import os
import statistics
import sys

import attack_speed
import measure
import training_step

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = {'attack': 'attack_loop.py', 'step': 'training_step.py'}
FEWEST = 6  # turns: of fewer no interval covers the median in 95%


def median_interval(values):
    """The narrowest (low, high) of ``values``, equally many in from both ends, that covers the median of what they are
    drawn from in 95% of such draws, whatever its distribution is: the sign test's.

    Raises:
        ValueError: there are fewer than ``FEWEST`` values.
    """
    if len(values) < FEWEST:
        raise ValueError('{} values, of which no interval covers the median in 95%: {} or more'.format(
            len(values), FEWEST))
    ordered, outside, within = sorted(values), 0.0, 0
    while True:
        outside += 2 * math.comb(len(values), within) / 2 ** len(values)
        if outside > 0.05:
            return ordered[within - 1], ordered[-within]
        within += 1


def commands(other, of, steps, flags):
    """{'before', 'after': (command, environment)} of the measuring processes of both checkouts."""
    flags = attack_speed.with_defaults(flags) if of == 'attack' else ['--steps', str(steps), '--in-turns', *flags]
    return {name: ([python, os.path.join(root, 'benchmarks', PROGRAMS[of]), *flags], {})
            for name, root, python in (('before', other, os.path.join(other, '.venv', 'bin', 'python')),
                                       ('after', os.path.dirname(HERE), sys.executable))}


def _checkout(path):
    """The absolute path of a folder with this project and its environment, for argparse."""
    missing = [name for name in ('.venv/bin/python', *('benchmarks/' + each for each in PROGRAMS.values()))
               if not os.path.exists(os.path.join(path, name))]
    if missing:
        raise argparse.ArgumentTypeError("'{}' has no {}: give a checkout in which `make setup` was run".format(
            path, missing[0]))
    return os.path.abspath(path)


def _turns(text):
    turns = measure.positive(text)
    if turns < FEWEST:
        raise argparse.ArgumentTypeError("'{}': {} turns or more, for an interval".format(text, FEWEST))
    return turns


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('other', type=_checkout, metavar='FOLDER', help='another checkout, set up')
    parser.add_argument('--of', choices=list(PROGRAMS), default='attack', help='default: %(default)s')
    parser.add_argument('--turns', type=_turns, default=20, metavar='N', help='of each (default: %(default)s)')
    parser.add_argument('--steps', type=measure.positive, default=2, metavar='N',
                        help='timed steps of a turn, with --of step (default: %(default)s)')
    parser.add_argument('--json', type=measure.new_file, metavar='FILE', help='write the figures there as well')
    own, flags = parser.parse_known_args(argv)
    quantity = measure.Quantity('images/s') if own.of == 'step' else attack_speed.QUANTITY

    def speed(result):
        return {quantity.name: training_step.speed(result)} if own.of == 'step' else result
    with measure.started(commands(own.other, own.of, own.steps, flags)) as running:
        found = measure.interleaved(running, own.turns, lambda name: speed(measure.turn(running[name])))
    measure.report(found, [quantity], own.json)
    before, after = (found[name][quantity.name] for name in ('before', 'after'))
    ratios = [new / old for old, new in zip(before, after)]
    print('\nafter by before: {:.3f}, 95% {:.3f} to {:.3f}, {} turns'.format(
        statistics.median(ratios), *median_interval(ratios), own.turns))


if __name__ == '__main__':
    main(sys.argv[1:])
