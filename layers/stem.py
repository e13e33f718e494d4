"""The first layers of networks of patches: one strided convolution, or the convolutional stem of Singh et al. 2023
("Revisiting Adversarial Training for ImageNet"), whose 3x3 convolutions are followed by a layer norm and an
activation each.

Convolutions have a bias, and pad symmetrically: TensorFlow's SAME is another function at even sizes.
"""
import math
from typing import NamedTuple, Optional, Tuple

import tensorflow.compat.v1 as tf

from layers.affine import conv2d, uniform
from layers.tokens import layer_norm
from smooth_activations import activate


class ConvStem(NamedTuple):
    """A convolutional stem of a network of any width.

    eighths (tuple of int): of the width, the channels of each 3x3 convolution. widest (int): a larger width counts as
    this one; None: none does. pointwise (bool): a 1x1 convolution behind all makes channels of the width.
    """
    eighths: Tuple[int, ...]
    widest: Optional[int] = None
    pointwise: bool = False

    def channels(self, width):
        """Of each 3x3 convolution, for a ``width`` that is a multiple of ``multiple``."""
        return [eighths * min(width, self.widest or width) // 8 for eighths in self.eighths]

    @property
    def multiple(self):
        """The least number of which a width must be a multiple."""
        return 8 // math.gcd(8, *self.eighths)

    @property
    def patch_sizes(self):
        """Pixels along a side that may become one position: as many convolutions have a stride of 2."""
        return tuple(1 << number for number in range(len(self.eighths) + 1))

    def positions(self, size, patch_size):
        """Positions along a side behind it, of ``size`` pixels."""
        return -(-size // patch_size)  # each stride of 2 rounds up


# Singh et al. 2023: of ConvNeXt-T and -S, of -B and -L, and of patches of 16 pixels.
TWO = ConvStem((4, 8))
THREE = ConvStem((4, 6, 8))
FOUR = ConvStem((1, 2, 4, 8), widest=384, pointwise=True)


def patches(image, name, channels, patch_size, style, scaling, initial):
    """A convolution whose kernel is as large as its stride; variables ``name/{weight,bias}``.

    Args:
        image (tf.Tensor): [N,S,S,3] or [N,3,S,S] in [-1, 1]. scaling (str): of ``layers.scaling``, what it takes.
        initial: see ``layers.affine.conv2d``.
    Returns:
        tf.Tensor: [N,S/patch_size,S/patch_size,channels], or as the layout has it.
    """
    return conv2d(image, name, channels, patch_size, style, stride=patch_size, initial=initial, scaling=scaling)


def conv_stem(image, name, stem, width, patch_size, style, scaling):
    """The convolutional stem, with variables ``name/K/{weight,bias}``; K counts convolutions, norms and activations.

    As many of the 3x3 convolutions have a stride of 2 as make up ``patch_size``, the first ones.

    Args:
        stem (ConvStem). width (int): of the network. Others: see ``patches``.
    """
    x, layer = image, (name + '/{}').format
    for number, channels in enumerate(stem.channels(width)):
        x = conv2d(x, layer(3 * number), channels, 3, style, stride=2 if patch_size >> number > 1 else 1, around=1,
                   initial=uniform, scaling=scaling if number == 0 else None)
        x = layer_norm(x, layer(3 * number + 1), style)
        with tf.variable_scope(layer(3 * number + 2)):
            x = activate(x, style.activation)
    if stem.pointwise:
        x = conv2d(x, layer(3 * len(stem.eighths)), width, 1, style, initial=uniform)
    return x
