#!/usr/bin/env python
"""Memory of a training step, and what --recompute and --accumulate save and cost: peak resident memory, bytes an image.

    .venv/bin/python benchmarks/memory.py --arch EfficientNet --model-name efficientnet-b0 --batch 32

Flags of main.py that are not in a variant count for all of them. 'bytes an image' is what the peak has beyond the
process with its weights, for each image of the batch. Each measurement is a process of its own; the variants take
turns. It is the host's memory: what a step needs on a GPU is not in it.
"""
import argparse

import measure
import training_step

VARIANTS = ('plain:', 'recompute: --recompute', 'accumulate 2: --accumulate 2', 'accumulate 4: --accumulate 4',
            'recompute, accumulate 4: --recompute --accumulate 4')
QUANTITIES = {
    measure.Quantity('peak resident, MiB', 0, higher_is_better=False): training_step.peak,
    measure.Quantity('bytes an image', 0, higher_is_better=False):
        lambda result: (result['peak'] - result['before']) / result['batch'],
    measure.Quantity('images/s'): training_step.speed}
# glibc keeps freed blocks of a size that it has seen often; here they go back at once, so that memory is what the step
# needs.
ENVIRONMENT = {'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '65536'}



def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    training_step.add_flags(parser, '; '.join(VARIANTS))
    own, flags = parser.parse_known_args()
    commands = training_step.commands(own, flags, VARIANTS, ENVIRONMENT)
    measure.report(measure.interleaved(commands, own.repeats, lambda name: training_step.figures(
        measure.run(*commands[name]), QUANTITIES)), list(QUANTITIES), own.json)


if __name__ == '__main__':
    main()
