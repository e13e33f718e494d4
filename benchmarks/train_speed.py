#!/usr/bin/env python
"""Images per second of whole training steps (attack and update), for variants given by main.py's flags.

    .venv/bin/python benchmarks/train_speed.py --batch 8 --activation-name silu
    .venv/bin/python benchmarks/train_speed.py --variant 'one: --attack-iter 1' --variant 'two: --attack-iter 2'
    .venv/bin/python benchmarks/train_speed.py --recipe revisiting-at --arch ConvNeXt --batch 8 \
      --variant 'float32: --attack-precision float32' --torch-python torch-env/bin/python

Flags of main.py that are not in a variant count for all of them. A variant may begin with variables of the environment:
'one thread: TF_NUM_INTRAOP_THREADS=1'. Each measurement is a process of its own; the variants take turns. Prints a
Markdown table, median (lowest to highest), and the ratio to the first variant. With --torch-python, for ConvNeXt and
ViT, the same step is also timed in PyTorch: APGD of 2 steps, then AdamW.
"""
import argparse
import sys

import measure
import training_step
from attack_speed import TORCH_UNNORMED, torch_loops, torch_network

VARIANTS = ('clean: --attack-iter 0', 'PGD-1: --attack-iter 1', 'PGD-4: --attack-iter 4',
            'PGD-1, recompute: --attack-iter 1 --recompute', 'PGD-1, accumulate 2: --attack-iter 1 --accumulate 2')


def in_torch(flags, torch_python, steps):
    """{name: command} of PyTorch's training steps, whose weights stay float32."""
    recipe = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    recipe.add_argument('--recipe', choices=['revisiting-at'])  # theirs is that
    theirs = torch_network(recipe.parse_known_args(flags)[1])
    if theirs is None or '--network' not in theirs:
        sys.exit("train_speed.py: error: --torch-python: PyTorch's steps are those of --arch ConvNeXt or ViT, with "
                 '--model-name and --batch alone')
    ways = {name: way for name, way in TORCH_UNNORMED.items() if '--cast' not in way}
    return torch_loops(theirs + ['--train-steps', str(steps)], torch_python, ways)


if __name__ == '__main__':
    training_step.compare(__doc__, VARIANTS, {measure.Quantity('images/s'): training_step.speed},
                          torch_loops=in_torch)
