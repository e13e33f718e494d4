#!/usr/bin/env python
"""How fast the attack loop is: ours in each precision, the release's graph, and PyTorch's if it is installed.

    .venv/bin/python benchmarks/attack_speed.py --torch-python torch-env/bin/python
    .venv/bin/python benchmarks/attack_speed.py --arch EfficientNet --precisions float32 bfloat16

Takes main.py's flags of a network (--arch first of all) and its training attack; default: ResNet-50 with SiLU at 224,
8 images, PGD-4. All loops are up at once, each in a process of its own, and take turns; an image-step is one pass
forward and back of one image. Prints a Markdown table, median (lowest to highest) and the ratio to the release's graph:
NCHW, batch norm by itself, activations of several ops (its max-pooling in NHWC: a CPU has no gradient of it otherwise).
PyTorch is looked for in this program's Python, or in another one, for ResNet-50 alone; all its ways are tried.
"""
import argparse
import contextlib
import os
import subprocess
import sys

import measure
from ranks.cores import threads_for
from ranks.launched import Ranks

HERE = os.path.dirname(os.path.abspath(__file__))
NETWORK = ['--arch', 'ResNet', '-d', '50', '--activation-name', 'silu']
ATTACK = ['--batch', '8', '--attack-iter', '4', '--attack-epsilon', '8', '--attack-step-size', '2']
QUANTITY = measure.Quantity('image-steps/s')
TORCH = {'PyTorch, float32': [], 'PyTorch, float32, folded': ['--fold'],
         'PyTorch, float32, folded, compiled': ['--fold', '--compile'],
         'PyTorch, bfloat16 autocast': ['--precision', 'bfloat16'],
         'PyTorch, bfloat16 autocast, folded': ['--precision', 'bfloat16', '--fold'],
         'PyTorch, bfloat16, folded': ['--precision', 'bfloat16', '--cast', '--fold'],
         'PyTorch, bfloat16, folded, compiled': ['--precision', 'bfloat16', '--cast', '--fold', '--compile']}


def with_defaults(flags):
    """main.py's flags of the loops, of which ``flags`` were given."""
    return ([] if '--arch' in flags else NETWORK) + ATTACK + flags


def loops(flags, precisions, torch_python):
    """{name: command} of all loops."""
    ours = [sys.executable, os.path.join(HERE, 'attack_loop.py')]
    found = {"the release's graph": ours + ['--as-published', '--data-format', 'NCHW'] + flags,
             "the release's graph in NHWC": ours + ['--as-published', '--data-format', 'NHWC'] + flags}
    found.update((name, ours + ['--attack-precision', name] + flags) for name in precisions)
    if torch_python:
        theirs = [torch_python, os.path.join(HERE, 'torch_loop.py'), '--batch', '8', '--attack-iter', '4',
                  '--threads', str(threads_for(Ranks()))]
        found.update((name, theirs + ways) for name, ways in TORCH.items())
    return found


def find_torch(python):
    """``python``, or this one, if it has PyTorch; None if that was not asked for and has not."""
    has = subprocess.run([python or sys.executable, '-c', 'import torch'], stderr=subprocess.DEVNULL).returncode == 0
    if python and not has:
        sys.exit("attack_speed.py: error: --torch-python '{}': it cannot import torch".format(python))
    return (python or sys.executable) if has else None


@contextlib.contextmanager
def started(commands):
    """{name: process} of loops that are ready; they end with the block."""
    with contextlib.ExitStack() as stack:
        running = {}
        for name, command in commands.items():
            running[name] = stack.enter_context(subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            stack.callback(running[name].terminate)
            measure.hear(running[name])  # one after another: PyTorch's compiler uses all cores
        yield running


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    measure.add_flags(parser)
    parser.add_argument('--precisions', nargs='+', default=['float32', 'bfloat16'], metavar='NAME',
                        help="of --attack-precision (default: %(default)s)")
    parser.add_argument('--torch-python', metavar='PROGRAM', help='a Python that has PyTorch (default: this one)')
    own, flags = parser.parse_known_args(argv)
    torch_python = None if flags else find_torch(own.torch_python)

    def one(name):
        running[name].stdin.write('\n')
        running[name].stdin.flush()
        return measure.hear(running[name])
    with started(loops(with_defaults(flags), own.precisions, torch_python)) as running:
        found = measure.interleaved(running, own.repeats, one)
    measure.report(found, [QUANTITY], own.json, {"the release's graph": None})


if __name__ == '__main__':
    main(sys.argv[1:])
