#!/usr/bin/env python
"""Weak scaling of training steps (attack, update, exchange of gradients) from one rank to several, one core each.

    .venv/bin/python benchmarks/scaling.py --arch CifarResNet -d 20 --attack-iter 1 --batch 32 --timeline
    .venv/bin/python benchmarks/scaling.py --batch 8 --setting 'slower cycle: HOROVOD_CYCLE_TIME=10'

In turn: one process alone; as many as there are ranks at the same time that know nothing of each other; ranks under
mpirun that exchange their gradients. What the middle one loses is the hardware's: cores that share a cache, memory
or, as two hyperthreads, everything. What the ranks lose beside it is the exchange's. Each --setting is one more way
of running the ranks. Flags of main.py count for all. With --timeline one more run shows which part of the exchange
lies within the backward pass.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import measure
import timeline
import training_step

ALONE = 'one process alone'
SPEED = measure.Quantity('images/s for each process', 3)


def at_once(cores, steps, flags):
    """Images/s for each process, mean over one for each of the cores, all at work at the same time without ranks."""
    running = []
    try:
        for core in cores:
            running.append(subprocess.Popen(
                training_step.command(steps, flags, '--cores', str(core), '--among-others'), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        for process in running:
            measure.hear(process)  # it is ready
        for process in running:
            process.stdin.write('go\n')
            process.stdin.flush()
        return sum(training_step.speed(measure.hear(process)) for process in running) / len(running)
    finally:
        for process in running:
            process.stdin.close()  # it ends after its step
            process.stdout.close()
        for process in running:
            process.wait()


def as_ranks(cores, steps, flags, environment=(), more=()):
    """What ranks, one on each of the cores, that train together have to say."""
    command = training_step.command(steps, flags, '--cores', ','.join(map(str, cores)), *more)
    # Each rank takes its core itself: mpirun would count two hyperthreads as one.
    return measure.run(['mpirun', '-np', str(len(cores)), '--oversubscribe', '-bind-to', 'none'] + command, environment)


def show_timeline(cores, steps, flags, keep):
    """One more run of the ranks, and what its timeline shows; kept in the file ``keep`` if that is a name."""
    with tempfile.TemporaryDirectory() as folder:
        path = keep or os.path.join(folder, 'timeline.json')
        result = as_ranks(cores, steps, flags, {'HOROVOD_TIMELINE': os.path.abspath(path)}, ['--gradient-times'])
        try:
            print('\n'.join([''] + timeline.describe(path, result['ready'])), flush=True)
        except ValueError as error:
            sys.exit('scaling.py: error: {}'.format(error))


def hyperthreads(cores):
    """Whether some of these cores are hyperthreads of one physical core, as far as the machine says so."""
    siblings = []
    for core in cores:
        with open('/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list'.format(core)) as f:
            siblings.append(f.read())
    return len(set(siblings)) < len(cores)


def main():
    mine = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--ranks', type=measure.positive, default=2, metavar='N', help='(default: %(default)s)')
    parser.add_argument('--steps', type=measure.positive, default=5, metavar='N',
                        help='timed steps of a measurement (default: %(default)s)')
    parser.add_argument('--setting', type=measure.variant, action='append', default=[], metavar="'NAME: FLAGS'",
                        help="one more way of running the ranks: flags of main.py, behind variables for Horovod or "
                             "MPI, as 'half: --gradient-compression fp16' or 'slower: HOROVOD_CYCLE_TIME=10'")
    parser.add_argument('--timeline', nargs='?', const='', metavar='FILE',
                        help="also show how much of the exchange Horovod's timeline has within the backward pass; keep "
                             'the timeline in FILE (default: it is not kept)')
    measure.add_flags(parser)
    own, flags = parser.parse_known_args()
    if not 2 <= own.ranks <= len(mine):
        parser.error('--ranks {}: from 2 to the {} cores there are'.format(own.ranks, len(mine)))
    cores = mine[:own.ranks]
    if hyperthreads(cores):
        print('cores {} are hyperthreads of one physical core: one alone on it is faster than each of two\n'.format(
            ', '.join(map(str, cores))), flush=True)
    apart, ranks = '{} processes at once, no exchange'.format(own.ranks), '{} ranks'.format(own.ranks)
    ways = {ALONE: lambda: at_once(cores[:1], own.steps, flags), apart: lambda: at_once(cores, own.steps, flags)}
    for setting in [measure.Variant('', [])] + own.setting:
        ways[', '.join(filter(None, (ranks, setting.name)))] = lambda setting=setting: training_step.speed(
            as_ranks(cores, own.steps, flags + setting.flags, setting.environment)) / own.ranks
    measure.report(measure.interleaved(ways, own.repeats, lambda name: {SPEED.name: ways[name]()}), [SPEED], own.json, {
        'one process alone': None,
        'processes without exchange': lambda name: None if name in (ALONE, apart) else apart})
    if own.timeline is not None:
        show_timeline(cores, own.steps, flags, own.timeline)


if __name__ == '__main__':
    main()
