#!/usr/bin/env python
"""One attack loop in a process of its own: says its speed for every line it reads; attack_speed.py starts it.

    echo | .venv/bin/python benchmarks/attack_loop.py --data-format NCHW --as-published --batch 8 --attack-iter 4

Takes main.py's flags. The images are random and the weights those of a fresh network: neither changes what is computed.
"""
import argparse
import contextlib
import sys
import time

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import measure
from adv_model import image_preprocess
from commands.command_line import parse_args
from commands.networks import make_training_model
from machine.devices import fastest_precisions
from ranks.launched import Ranks
from ranks.sessions import session_config
from settings.resolve import resolve
from smooth_activations import tensorflow_ops_only


def build(args, as_published):
    """The adversarial images of a batch of random ones; ``as_published``: as the SAT release's graph computes them,
    with batch norm by itself and activations of several ops."""
    random = np.random.RandomState(0)
    image = tf.constant(random.randint(0, 256, [args.batch, args.input_size, args.input_size, 3]).astype(np.uint8))
    label = tf.constant(random.randint(0, args.num_classes, [args.batch]), tf.int32)
    model = make_training_model(resolve(args), rank=0)
    with TowerContext('', is_training=False), tensorflow_ops_only() if as_published else contextlib.nullcontext():
        image = image_preprocess(image, model.data_format, model.channels)
        if as_published:
            return model.attacker.attack(image, label, model.get_logits).image
        return model.attack(model.attacker, image, label, None, model.attack_gradient, model.attack_precision).image


def run(argv):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--as-published', action='store_true', help='the graph of the release')
    own, flags = parser.parse_known_args(argv)
    args = parse_args(['--fake'] + flags)
    args.attack_precision = args.attack_precision or fastest_precisions().attack_precision
    done = build(args, own.as_published).op
    with tf.Session(config=session_config(Ranks())) as session:
        session.run(tf.global_variables_initializer())
        for _ in range(2):  # TensorFlow prepares its graph in the first run
            session.run(done)
        measure.say('ready')
        for _ in sys.stdin:
            begin = time.time()
            session.run(done)
            measure.say({'image-steps/s': args.batch * args.attack_iter / (time.time() - begin)})


if __name__ == '__main__':
    run(sys.argv[1:])
