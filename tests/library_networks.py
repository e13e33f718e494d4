"""Small networks with made-up weights as checkpoints that say what they are, for the tests of the library."""
import numpy as np
import tensorflow.compat.v1 as tf

import main
from networks import make_network
from test_in_pytorch import weight
from weights import card
from weights.match import load_into

RESNET = ['--arch', 'CifarResNet', '-d', '8', '--activation-name', 'silu']
VIT = ['--arch', 'ViT', '--model-name', 'vit-s-cvst', '--blocks', '1', '--widths', '16', '--heads', '2',
       '--patch-size', '2']


def write_network(path, *flags, classes=None):
    """An .npz with its card; returns its path. The last biases are such that each class is the likeliest for some
    images."""
    with tf.Graph().as_default(), tf.Session() as session:
        model, args = make_network(*flags), main.parse_args(list(flags))
        side, args.moving_average_decay = model.image_shape, 0
        logits = model.classify(tf.constant(pictures(32, side, side, seed=1)))
        values = {v.op.name: weight(v.op.name, v.shape.as_list()) for v in tf.global_variables()}
        load_into(session, [(v, values[v.op.name]) for v in tf.global_variables()])
        last, = [name for name, value in values.items() if value.shape == (model.num_classes,)]
        values[last] -= session.run(logits).mean(axis=0)
        np.savez(path, **values, **card.as_entry(card.make(args, classes)))
    return str(path)


def pictures(count, height, width, seed=0):
    """uint8 [count,height,width,3], smooth at a scale of four pixels."""
    blocks = np.random.default_rng(seed).integers(0, 256, [count, -(-height // 4), -(-width // 4), 3], dtype=np.uint8)
    return blocks.repeat(4, 1).repeat(4, 2)[:, :height, :width]
