#!/usr/bin/env python
"""Write the steps that gpu_speed.py times as XLA's programs (HLO), each beside a JSON file that says what it takes.

    .venv/bin/python benchmarks/gpu_export.py --out bench/hlo
    .venv/bin/python benchmarks/gpu_export.py --out bench/hlo --steps train --networks resnet50 --batch 256
    .venv/bin/python benchmarks/gpu_export.py --out bench/small --batch 4 --layouts NHWC \
      --network 'small: --arch CifarResNet -d 8 --input-size 32'

Steps: a whole one of PGD-1 training (attack, forward, backward, SGD with momentum), 4 of PGD, 4 of AutoAttack's APGD.
They are this project's own graphs, of TensorFlow's own ops. Weights are parameters, so that a file is small. Needs no
GPU.
"""
import argparse
import datetime
import gzip
import os
import platform

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

import measure
from adv_model import PRECISIONS
from gpu import products, steps
from gpu.lower import lower

NETWORKS = {'resnet50': '--arch ResNet -d 50 --activation-name silu', 'convnext-t': '--arch ConvNeXt --recipe sat'}
LAYOUTS = ('NHWC', 'NCHW')


def initial(graph):
    """{name of a variable: (mean, standard deviation)} of what it begins with."""
    with graph.as_default(), tf.Session() as session:
        values = {variable.op.name: tf.cast(variable, tf.float32) for variable in tf.global_variables()}
        session.run(tf.global_variables_initializer())
        return session.run({name: [tf.reduce_mean(value), tf.math.reduce_std(value)] for name, value in values.items()})


def export(folder, network, step, precision, layout, batch):
    """Write a step's two files; returns their size in bytes. ``network``: a ``measure.Variant``."""
    tf.config.experimental.enable_tensor_float_32_execution(precision == 'tf32')
    with tf.Graph().as_default() as graph:
        made, args = steps.build(step, network.flags, batch, 'float32' if precision == 'tf32' else precision, layout)
    program = lower(graph, made.inputs, made.results)
    begins = initial(graph)
    there, back = products.of_passes(args)
    name = '-'.join((step, network.name, precision, layout))
    content = {
        'name': name, 'step': step, 'network': network.name, 'flags': network.flags, 'precision': precision,
        'layout': layout, 'batch': batch, 'size': args.input_size, 'classes': args.num_classes,
        'passes': made.passes, 'trains': made.trains, 'operations': batch * (made.passes * there + made.trains * back),
        'parameters': [{'name': name, 'type': kind, 'shape': shape, 'begins': list(map(float, begins.get(name, ())))}
                       for name, kind, shape in program.parameters],
        'results': [{'name': name, 'type': kind, 'shape': shape,
                     'feeds': made.feeds.get(name, name if name in begins else None)}
                    for name, kind, shape in program.results],
        'versions': {'TensorFlow': tf.__version__, 'Python': platform.python_version()},
        'date': datetime.date.today().isoformat()}
    path = os.path.join(folder, name)
    with gzip.GzipFile(path + '.hlo.gz', 'wb', mtime=0) as target:
        target.write(program.hlo)
    measure.write_json(path + '.json', content)
    return os.path.getsize(path + '.hlo.gz') + os.path.getsize(path + '.json')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--out', required=True, metavar='FOLDER', help='is made where it is not there')
    parser.add_argument('--batch', type=measure.positive, default=128, metavar='N',
                        help='images of a step (default: %(default)s)')
    for flag, choices in (('--steps', steps.STEPS), ('--networks', NETWORKS), ('--precisions', (*PRECISIONS, 'tf32')),
                          ('--layouts', LAYOUTS)):
        parser.add_argument(flag, nargs='+', choices=choices, default=list(choices), metavar='NAME',
                            help='of {} (default: all)'.format(', '.join(choices)))
    parser.add_argument('--network', type=measure.variant, action='append', metavar="'NAME: FLAGS'",
                        help="in place of those: a network by main.py's flags")
    return parser.parse_args()


def main():
    args = parse_args()
    logger.setLevel('ERROR')
    os.makedirs(args.out, exist_ok=True)
    networks = args.network or [measure.variant('{}: {}'.format(name, NETWORKS[name])) for name in args.networks]
    total = 0
    for network in networks:
        for precision in args.precisions:
            for layout in args.layouts:
                for step in args.steps:
                    size = export(args.out, network, step, precision, layout, args.batch)
                    total += size
                    print('{:8,d} KiB {}'.format(-(-size // 1024), '-'.join((step, network.name, precision, layout))),
                          flush=True)
    print('{:8,d} KiB in {}'.format(-(-total // 1024), args.out))


if __name__ == '__main__':
    main()
