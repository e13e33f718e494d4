"""How much a network's convolutions and matrix products compute, counted in its graph."""
import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from commands.networks import make_training_model
from settings.resolve import resolve
from smooth_activations import tensorflow_ops_only


def of_passes(args):
    """Operations, a multiplication and an addition each one, of an image's pass forward and back to the image, and of
    one forward and back to the weights.

    ``args``: main.py's flags of the network, parsed. A gradient to a layer's input takes as many as the layer itself,
    and so does one to its weights; training asks the first layer for no gradient to its input.
    """
    with tf.Graph().as_default() as graph, tensorflow_ops_only(), TowerContext('', is_training=False):
        model = make_training_model(resolve(args), rank=0)
        shape = [1, 3, args.input_size, args.input_size] if model.data_format == 'NCHW' else [
            1, args.input_size, args.input_size, 3]
        model.get_logits(tf.placeholder(tf.float32, shape))
        found = [2 * products(op) for op in graph.get_operations()]
    first = next(count for count in found if count)
    return 2 * sum(found), 3 * sum(found) - first


def products(op):
    """Of two numbers each, that a convolution or matrix product adds up; 0 of other ops."""
    if op.type not in ('Conv2D', 'DepthwiseConv2dNative', 'MatMul', 'BatchMatMulV2'):
        return 0
    weights = op.inputs[1].shape.as_list()
    if op.type == 'Conv2D':
        terms = np.prod(weights[:-1])
    elif op.type == 'DepthwiseConv2dNative':
        terms = np.prod(weights[:2])
    else:
        turned = op.get_attr('transpose_b' if op.type == 'MatMul' else 'adj_y')
        terms = weights[-1 if turned else -2]
    return int(np.prod(op.outputs[0].shape.as_list()) * terms)
