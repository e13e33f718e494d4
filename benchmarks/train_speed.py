#!/usr/bin/env python
"""Images per second of whole training steps (attack and update), for variants given by main.py's flags.

    .venv/bin/python benchmarks/train_speed.py --batch 8 --activation-name silu
    .venv/bin/python benchmarks/train_speed.py --variant 'one: --attack-iter 1' --variant 'two: --attack-iter 2'

Flags of main.py that are not in a variant count for all of them. A variant may begin with variables of the environment:
'one thread: TF_NUM_INTRAOP_THREADS=1'. Each measurement is a process of its own; the variants take turns. Prints a
Markdown table, median (lowest to highest), and the ratio to the first variant.
"""
import measure
import training_step

VARIANTS = ('clean: --attack-iter 0', 'PGD-1: --attack-iter 1', 'PGD-4: --attack-iter 4',
            'PGD-1, recompute: --attack-iter 1 --recompute', 'PGD-1, accumulate 2: --attack-iter 1 --accumulate 2')

if __name__ == '__main__':
    training_step.compare(__doc__, VARIANTS, {measure.Quantity('images/s'): training_step.speed})
