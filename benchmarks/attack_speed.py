#!/usr/bin/env python
"""How fast the attack loop is: ours in each precision, the release's graph, and PyTorch's if it is installed.

    .venv/bin/python benchmarks/attack_speed.py --torch-python torch-env/bin/python
    .venv/bin/python benchmarks/attack_speed.py --arch EfficientNet --precisions float32 bfloat16
    .venv/bin/python benchmarks/attack_speed.py --arch ConvNeXt --torch-python torch-env/bin/python

Takes main.py's flags of a network (--arch first of all) and its training attack; default: ResNet-50 with SiLU at 224,
8 images, PGD-4. All loops are up at once, each in a process of its own, and take turns; an image-step is one pass
forward and back of one image. Prints a Markdown table, median (lowest to highest) and the ratio to the release's graph:
NCHW, batch norm by itself, activations of several ops (its max-pooling in NHWC: a CPU has no gradient of it otherwise).
Of networks that were released in PyTorch the first row is TensorFlow's own ops, in NHWC. PyTorch is looked for in this
program's Python, or in another one, for ResNet-50 and, with timm, for ConvNeXt and ViT; all its ways are tried.
"""
import argparse
import os
import subprocess
import sys

import measure
import torch_ways

HERE = os.path.dirname(os.path.abspath(__file__))
NETWORK = ['--arch', 'ResNet', '-d', '50', '--activation-name', 'silu']
ATTACK = ['--batch', '8', '--attack', 'pgd', '--attack-iter', '4', '--attack-epsilon', '8', '--attack-step-size', '2']
QUANTITY = measure.Quantity('image-steps/s')
FROM_TORCH = ('ConvNeXt', 'ViT')  # networks that were released in PyTorch


def with_defaults(flags):
    """main.py's flags of the loops, of which ``flags`` were given."""
    return ([] if '--arch' in flags else NETWORK) + ATTACK + flags


def torch_network(flags):
    """torch_loop.py's flags for the network and the attack of main.py's ``flags``; None if it has not all of them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag, default in (('--arch', None), ('--model-name', None), ('--batch', '8'), ('--attack-iter', '4')):
        parser.add_argument(flag, default=default)
    args, others = parser.parse_known_args(flags)
    attack = ['--batch', args.batch, '--attack-iter', args.attack_iter]
    if others or (args.arch or args.model_name) and args.arch not in FROM_TORCH:
        return None
    if args.arch is None:
        return attack
    networks = torch_ways.NETWORKS[args.arch]
    network = networks.get(args.model_name or next(iter(networks)))
    return network and [*network.flags, *attack]


def loops(flags, precisions, torch_python):
    """{name: command} of all loops; ``flags``: main.py's that were given. ``torch_python``: see ``find_torch``."""
    ours, given = [sys.executable, os.path.join(HERE, 'attack_loop.py')], with_defaults(flags)
    from_torch = any(arch in flags for arch in FROM_TORCH)
    found = {} if from_torch else {
        "the release's graph": ours + ['--as-published', '--data-format', 'NCHW'] + given}
    found["TensorFlow's own ops" if from_torch else "the release's graph in NHWC"] = ours + [
        '--as-published', '--data-format', 'NHWC'] + given
    found.update((name, ours + ['--attack-precision', name] + given) for name in precisions)
    theirs = torch_network(flags)
    torch_python = theirs and find_torch(torch_python)
    if torch_python:
        found.update(torch_ways.commands('torch_loop.py', theirs, torch_python,
                                         torch_ways.LOOPS_UNNORMED if from_torch else torch_ways.LOOPS))
    return found


def find_torch(python):
    """``python``, or this one, if it has PyTorch; None if that was not asked for and has not."""
    has = subprocess.run([python or sys.executable, '-c', 'import torch'], stderr=subprocess.DEVNULL).returncode == 0
    if python and not has:
        sys.exit("attack_speed.py: error: --torch-python '{}': it cannot import torch".format(python))
    return (python or sys.executable) if has else None


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    measure.add_flags(parser)
    parser.add_argument('--precisions', nargs='+', default=['float32', 'bfloat16'], metavar='NAME',
                        help="of --attack-precision (default: %(default)s)")
    parser.add_argument('--torch-python', metavar='PROGRAM', help='a Python that has PyTorch (default: this one)')
    own, flags = parser.parse_known_args(argv)
    commands = loops(flags, own.precisions, own.torch_python)
    with measure.started({name: (command, {}) for name, command in commands.items()}) as running:
        found = measure.interleaved(running, own.repeats, lambda name: measure.turn(running[name]))
    measure.report(found, [QUANTITY], own.json, {next(iter(commands)): None})


if __name__ == '__main__':
    main(sys.argv[1:])
