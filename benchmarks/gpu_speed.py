#!/usr/bin/env python
"""Time exported steps (gpu_export.py) by JAX's XLA on the first GPU, or else the CPU, beside PyTorch's same work.

    python3 benchmarks/gpu_speed.py --hlo bench/hlo --json bench/gpu.json
    python3 benchmarks/gpu_speed.py --hlo bench/hlo --minutes 10 --only convnext float16
    python3 benchmarks/gpu_speed.py --hlo bench/hlo --jax-python jax-env/bin/python --torch-python torch-env/bin/python

Needs no TensorFlow: JAX and PyTorch, in this program's Python or in others; of one that is missing it says so, and goes
on with the other. Begins with what the device can do at most, then measures what tells most first, and begins nothing
when its minutes are over. Prints a Markdown table of images a second; in an attack an image counts each time that it
goes forward and back.
"""
import argparse
import glob
import json
import os
import subprocess
import sys
import time

import measure
from gpu import plan, tables
from gpu.workers import Worker

LARGE, SMALL = 8192, 1024  # sides of the matrices whose product says what a GPU, or a CPU, can do at most
LEAST_SECONDS = 15  # that are left, for something to be begun


class Clock:
    """How much of the time is left. ``minutes`` (float): of the whole."""

    def __init__(self, minutes):
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self):
        """Seconds."""
        return self._end - time.monotonic()


def exported(folder, words):
    """What the JSON files of a folder say, each with its 'path'; of those that have one of ``words`` in their names.

    Raises:
        SystemExit: there are none.
    """
    found = []
    for path in sorted(glob.glob(os.path.join(folder, '*.json'))):
        with open(path) as f:
            said = json.load(f)
        if os.path.isfile(path[:-len('.json')] + '.hlo.gz') and any(word in said['name'] for word in words or ['']):
            found.append(dict(said, path=os.path.abspath(path[:-len('.json')])))
    if not found:
        sys.exit("gpu_speed.py: error: '{}': no exported step{}; make them with: .venv/bin/python "
                 'benchmarks/gpu_export.py --out {}'.format(folder, ' of these names' if words else '', folder))
    return found


def card():
    """{'card', 'driver'} of the first GPU by nvidia-smi; an empty dict where there is none."""
    try:
        said = subprocess.run(['nvidia-smi', '--query-gpu=name,driver_version', '--format=csv,noheader'], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(('card', 'driver'), said.splitlines()[0].split(', ')))


def present(workers, clock):
    """{'XLA' or 'PyTorch': what it says of itself} of the workers that can work; says in a line which cannot."""
    found = {}
    for name, worker in workers.items():
        said = worker.ask(min(clock.left, 120), 'versions')
        if 'error' in said:
            print('{} is left out: {}'.format({'XLA': "JAX's XLA"}.get(name, name), said['error']), flush=True)
        else:
            found[name] = said
    return found


def limits(workers, sides, clock):
    """{quantity: the most that either side reaches}, see ``xla_worker.limits``."""
    found = {}
    for name, side in sides.items():
        said = workers[name].ask(min(clock.left, 120), 'limits', SMALL if side['platform'] == 'cpu' else LARGE)
        if 'error' in said:
            print('{}, limits: {}'.format(name, said['error']), flush=True)
            continue
        found = {key: max(value, found.get(key, 0)) for key, value in said.items()}
    return found


def run(tasks, workers, clock, most):
    """{Task's name: answer} of those that were begun in time, and the names of the others; says each as it comes."""
    found, left_out = {}, []
    for task in tasks:
        if clock.left < LEAST_SECONDS:
            left_out.append(task.name)
            continue
        begin = time.monotonic()
        request = ['step', task.said['path']] if task.way is None else ['step', task.said, task.way]
        answer = workers['XLA' if task.way is None else 'PyTorch'].ask(min(clock.left, most), *request)
        found[task.name] = answer
        said = answer.get('error') or '{:,.1f} images/s'.format(tables.images(task.said) / answer['seconds'])
        print('{:5.0f} s  {}: {}'.format(time.monotonic() - begin, task.name, said), flush=True)
    return found, left_out


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--hlo', required=True, metavar='FOLDER', help='what gpu_export.py has written')
    parser.add_argument('--only', nargs='+', metavar='WORD', help='steps with one of these in their names')
    parser.add_argument('--minutes', type=float, default=6, metavar='M', help='of the whole (default: %(default)s)')
    parser.add_argument('--task-seconds', type=float, default=150, metavar='S',
                        help='after which something is given up (default: %(default)s)')
    for name, what in (('jax', 'JAX'), ('torch', 'PyTorch')):
        parser.add_argument('--{}-python'.format(name), default=sys.executable, metavar='PROGRAM',
                            help='a Python that has {} (default: this one)'.format(what))
    parser.add_argument('--json', type=measure.new_file, metavar='FILE', help='write the figures there as well')
    return parser.parse_args()


def main():
    args = parse_args()
    clock = Clock(args.minutes)
    steps = exported(args.hlo, args.only)
    workers = {'XLA': Worker(args.jax_python, 'xla_worker'), 'PyTorch': Worker(args.torch_python, 'torch_worker')}
    try:
        sides = present(workers, clock)
        if not sides:
            sys.exit('gpu_speed.py: error: nothing to measure with; name Pythons by --jax-python and --torch-python')
        most = limits(workers, sides, clock)
        tasks = plan.tasks(steps, sides, sides.get('PyTorch', {}).get('platform', 'cpu'))
        found, left_out = run(tasks, workers, clock, args.task_seconds)
    finally:
        for worker in workers.values():
            worker.end()
    where = dict(measure.where_and_when(), **card(), sides=sides)
    rows = tables.rows(steps, found, most)
    print(tables.text(where, most, rows, left_out), flush=True)
    if args.json:
        measure.write_json(args.json, dict(where, limits=most, rows=rows, left_out=left_out, answers=found))


if __name__ == '__main__':
    main()
