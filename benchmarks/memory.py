#!/usr/bin/env python
"""What --recompute and --accumulate save and cost: peak memory and time of a training step, each variant in its own
process.

    .venv/bin/python benchmarks/memory.py --arch EfficientNet --model-name efficientnet-b0 --batch 32

All flags of main.py that say what to train are understood. Prints a Markdown table.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

VARIANTS = ([], ['--recompute'], ['--accumulate', '2'], ['--accumulate', '4'], ['--recompute', '--accumulate', '4'])
MIB = 1 << 20


def measure(flags, steps):
    """One variant: the training step of ``main.py`` on constant images.

    Returns:
        dict: ``before``, resident MiB with the weights there; ``peak``, resident MiB at the worst moment; ``seconds``,
        median of the steps behind the first.
    """
    import tensorflow.compat.v1 as tf
    from tensorpack.tfutils.tower import TowerContext

    import commands
    import main
    from third_party.imagenet_utils import FakeStream
    from third_party.utils import Ranks, session_config
    args = main.parse_args(flags)
    model = commands.make_training_model(args, rank=0)
    with TowerContext('', is_training=True):
        image, label = (tf.placeholder(spec.dtype, spec.shape) for spec in model.inputs())
        cost = model.build_graph(image, label)
    step = tf.group(model.optimizer().minimize(cost), *tf.get_collection(tf.GraphKeys.UPDATE_OPS))
    feed = dict(zip((image, label), FakeStream(args.batch, args.input_size, args.num_classes).batch(0)))
    with tf.Session(config=session_config(Ranks())) as session:
        session.run(tf.global_variables_initializer())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = []
        for _ in range(1 + steps):
            begin = time.perf_counter()
            session.run(step, feed)
            times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {'before': before * 1024 / MIB, 'peak': peak * 1024 / MIB, 'seconds': statistics.median(times[1:])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=3, help='timed steps of each variant (default: %(default)s)')
    parser.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
    own, flags = parser.parse_known_args()
    if own.one:
        print(json.dumps(measure(flags, own.steps)))
        return
    print('| flags | peak beyond the weights, MiB | of the first | seconds a step | of the first |\n|---|---|---|---|---|')
    first = None
    for variant in VARIANTS:
        command = [sys.executable, __file__, '--one', '--steps', str(own.steps)] + flags + variant
        # glibc keeps freed blocks of a size that it has seen often; here they go back at once, so that memory is what
        # the step needs.
        found = subprocess.run(command, stdout=subprocess.PIPE, check=True,
                               env=dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='65536'))
        result = json.loads(found.stdout.splitlines()[-1])
        own_memory, seconds = result['peak'] - result['before'], result['seconds']
        first = first or (own_memory, seconds)
        print('| {} | {:.0f} | {:.2f} | {:.2f} | {:.2f} |'.format(
            ' '.join(variant) or '(none)', own_memory, own_memory / first[0], seconds, seconds / first[1]), flush=True)


if __name__ == '__main__':
    main()
