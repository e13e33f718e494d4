#!/usr/bin/env python
"""Images per second of whole training steps (attack and update), for variants given by main.py's flags.

    .venv/bin/python benchmarks/train_speed.py --batch 8 --activation-name silu
    .venv/bin/python benchmarks/train_speed.py --variant 'one: --attack-iter 1' --variant 'two: --attack-iter 2'
    .venv/bin/python benchmarks/train_speed.py --batch 8 --attack-iter 1 --torch-python torch-env/bin/python --stay

Flags of main.py that are not in a variant count for all of them. A variant may begin with variables of the environment:
'one thread: TF_NUM_INTRAOP_THREADS=1'. Each measurement is a process of its own; with --stay each variant is one, which
does its steps when its turn comes: that takes less time, and the memory of all at once. Prints a Markdown table, median
(lowest to highest), and the ratio to the first variant. 'peak resident' is the most memory that the process had so far.

With --torch-python the variants are main.py's precisions and the same step in PyTorch, in all of its ways or those of
--torch-ways: for ResNet-50 and EfficientNet-B0 by SAT's recipes, and for ConvNeXt and ViT by theirs.
"""
import argparse
import statistics
import sys

import measure
import torch_ways
import training_step
from commands.command_line import parse_args
from machine.processors import processor_kind

VARIANTS = ('clean: --attack-iter 0', 'PGD-1: --attack-iter 1', 'PGD-4: --attack-iter 4',
            'PGD-1, recompute: --attack-iter 1 --recompute', 'PGD-1, accumulate 2: --attack-iter 1 --accumulate 2')
PRECISIONS = ('float32: --attack-precision float32 --update-precision float32',
              'bfloat16: --attack-precision bfloat16 --update-precision bfloat16', 'default:')
SPEED = measure.Quantity('images/s')
QUANTITIES = {SPEED: training_step.speed,
              measure.Quantity('peak resident, MiB', 0, higher_is_better=False): training_step.peak}


def in_torch(flags, torch_python, steps, more=()):
    """{name: command} of PyTorch's ways of the training step of main.py's ``flags``; ``more``: torch_step.py's flags.

    Raises:
        SystemExit: there is none; says so.
    """
    args = parse_args(['--fake', *flags])
    size = ['-d', str(args.depth)] if args.depth else ['--model-name', str(args.model_name)]
    network = torch_ways.NETWORKS.get(args.arch, {}).get(size[1])
    attack = ['--batch', str(args.batch), '--attack-iter', str(args.attack_iter)]
    # All else has to be the recipe's.
    plain = network and parse_args(['--fake', '--arch', args.arch, *size, *attack])
    other = network and [name for name, value in vars(args).items() if value != getattr(plain, name)]
    if not network or other:
        sys.exit("train_speed.py: error: --torch-python: PyTorch's steps are those of --arch ResNet -d 50, "
                 'EfficientNet with efficientnet-b0, ConvNeXt and ViT, with --batch and --attack-iter{}'.format(
                     ', not with another {}'.format(', '.join(other)) if other else ' alone'))
    if network.attack_steps not in (None, args.attack_iter):
        sys.exit("train_speed.py: error: --torch-python: PyTorch's attack on --arch {} has --attack-iter {}".format(
            args.arch, network.attack_steps))
    return torch_ways.commands('torch_step.py', [*network.flags, *attack, '--steps', str(steps), *more],
                               torch_python, network.steps)


def references(found):
    """What ``measure.report`` compares with: the first variant, and PyTorch's best, where it was measured, of all
    precisions and of float32."""
    theirs = [name for name in found if name.startswith(torch_ways.PREFIX)]
    made = {'the first': None}
    for name, of_these in (("PyTorch's best", theirs),
                           ("PyTorch's best float32", [each for each in theirs if 'bfloat16' not in each])):
        if of_these:
            best = max(of_these, key=lambda each: statistics.median(found[each][SPEED.name]))
            made[name] = lambda variant, best=best: None if variant in theirs else best
    return made


def chosen(theirs, ways):
    """Those of PyTorch's commands that --torch-ways names, or all.

    Raises:
        SystemExit: a name is none of theirs; says which they are.
    """
    names = [torch_ways.PREFIX + way for way in ways or ()] or list(theirs)
    for name in names:
        if name not in theirs:
            sys.exit("train_speed.py: error: --torch-ways '{}': choose from {}".format(*(
                each.replace(torch_ways.PREFIX, '') for each in (name, "'{}'".format("' '".join(theirs))))))
    return {name: (theirs[name], {}) for name in names}


def measured(commands, repeats, stay):
    """As ``measure.interleaved``; ``commands``: {name: (command, environment)}."""
    if not stay:
        return measure.interleaved(commands, repeats, lambda name: training_step.figures(
            measure.run(*commands[name]), QUANTITIES))
    with measure.started(commands) as running:
        return measure.interleaved(running, repeats, lambda name: training_step.figures(
            measure.turn(running[name]), QUANTITIES))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    training_step.add_flags(parser, '{}; with --torch-python {}'.format('; '.join(VARIANTS), '; '.join(PRECISIONS)))
    parser.add_argument('--stay', action='store_true', help='one process for each variant, all at once')
    parser.add_argument('--torch-python', metavar='PROGRAM', help='a Python that has PyTorch: its steps as well')
    parser.add_argument('--torch-ways', nargs='+', metavar='NAME', help="which of PyTorch's (default: all)")
    own, flags = parser.parse_known_args()
    if own.torch_ways and not own.torch_python:
        parser.error('--torch-ways needs --torch-python PROGRAM')
    more = ['--in-turns'] * own.stay
    commands = training_step.commands(own, flags, PRECISIONS if own.torch_python else VARIANTS, more=more)
    if own.torch_python:
        commands.update(chosen(in_torch(flags, own.torch_python, own.steps, more), own.torch_ways))
    found = measured(commands, own.repeats, own.stay)
    measure.report(found, list(QUANTITIES), own.json, references(found))
    print('\n{}: {}'.format(measure.machine(), processor_kind()))


if __name__ == '__main__':
    main()
