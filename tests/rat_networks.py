"""ConvNeXt and vision transformers of the fixtures of Singh et al. 2023, with the rule's weights, for the tests.

A row is named as its network is in the fixtures, with the size of the images: 'vit_s_cvst_256'.
"""
import dataclasses
from typing import Any, Dict, Tuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import layers
import nets
from networks import make_network
from rat.weights_rule import imagenet_like_batch, make_weight
from weights.match import load_into, match_variables

LABELS = [7, 812]
_SIZES = {'tiny': 't', 'small': 's', 'base': 'b', 'large': 'l'}


def split(row):
    """'vit_s_cvst_norm_256' -> 'vit_s_cvst', whether its input is normalised, 256."""
    network, size = row.rsplit('_', 1)
    return network.replace('_norm', ''), '_norm' in network, int(size)


def flags_of(network):
    """'convnext_tiny_cvst' -> ['--arch', 'ConvNeXt', '--model-name', 'convnext-t-cvst']."""
    family, size, *stem = network.split('_')
    return ['--arch', {'convnext': 'ConvNeXt', 'vit': 'ViT'}[family],
            '--model-name', '-'.join([family, _SIZES.get(size, size), *stem])]


def make(row, *flags):
    network, normalised, size = split(row)
    scaling = ['--input-scaling', 'imagenet'] if normalised else []
    return make_network(*flags_of(network), '--input-size', str(size), '--fake', *scaling, *flags)


def stored(network, entries):
    """{variable: array} of a checkpoint of the fixtures' network; ``entries``: names and shapes in PyTorch."""
    pytorch = nets.ARCHITECTURES[flags_of(network)[1]].pytorch
    return {pytorch.variable(name): pytorch.from_pytorch(pytorch.variable(name), make_weight(name, shape))
            for name, shape in entries}


@dataclasses.dataclass
class Computed:
    """Of a row: logits; loss of each image; the gradient of their sum by the images in [0, 1], NCHW; norms of that by
    the parameters; what each block has taken and given, NCHW or tokens."""
    logits: np.ndarray
    losses: np.ndarray
    image_gradient: np.ndarray
    gradient_norms: Dict[str, float]
    blocks: Tuple[Any, ...]


def compute(session, row, values, *flags, parameters=True):
    """Build the network of a row in the session's graph, with ``values``, and run it on the fixtures' two images."""
    model, seen = make(row, *flags), []
    image = tf.constant(np.transpose(imagenet_like_batch(split(row)[2]), [0, 2, 3, 1]) * 2 - 1)
    own = layers.block
    layers.block = lambda function, x, style: seen.append((x, own(function, x, style))) or seen[-1][1]
    try:
        with TowerContext('', is_training=False):
            logits = model.get_logits(image if model.data_format == 'NHWC' else tf.transpose(image, [0, 3, 1, 2]))
    finally:
        layers.block = own
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=LABELS)
    variables = tf.global_variables()
    load_into(session, match_variables(variables, values, 'of the fixtures'))
    dimage, *gradients = tf.gradients(losses, [image] + (variables if parameters else []))
    logits, losses, dimage, seen, gradients = session.run([logits, losses, dimage, seen, gradients])
    return Computed(logits, losses, np.transpose(dimage, [0, 3, 1, 2]) * 2, {
        v.op.name: np.linalg.norm(np.float64(gradient)) for v, gradient in zip(variables, gradients)},
        [[np.transpose(x, [0, 3, 1, 2]) if x.ndim == 4 and model.data_format == 'NHWC' else x for x in pair]
         for pair in seen])
