"""Dense layers and convolutions with a bias, which also do the affine maps of channels before and behind them.

The scale and offset of a layer norm in front, a layer scale behind, and what a network makes of [-1, 1] are part of the
weights and the bias. That is exact, costs a pass over weights in place of passes over activations, and nothing at all
under attack, where the weights stand still.
"""
import tensorflow.compat.v1 as tf

from layers.convolution import conv2d as convolve, depthwise_conv2d as convolve_each
from layers.recompute import projection
from layers.scaling import as_affine, scale_input, zero_of
from layers.style import channels_of


def normal(fan_in):
    """Initial weights and bias of ConvNeXt and of ViT's dense layers (Liu et al. 2022; timm), whose cut at 2 is a
    hundred standard deviations away."""
    return tf.random_normal_initializer(stddev=0.02), tf.zeros_initializer()


def uniform(fan_in):
    """PyTorch's own initial weights and bias, which no rule of the originals replaces."""
    bound = fan_in ** -0.5
    return 2 * (tf.random_uniform_initializer(-bound, bound),)


def _folded(weights, bias, dtype, style, before=None, after=None):
    """Weights [..., in, out] and bias [out], in ``dtype``, with affine maps in them.

    Args:
        before: factor and offset, [in] each, of the channels of the input; exact where no zeros are around it.
        after: factor [out] of the result.
    """
    def fold():
        w, b = tf.convert_to_tensor(weights), tf.convert_to_tensor(bias)
        if before is not None:
            factor, offset = before
            b = b + tf.reduce_sum(offset[:, None] * w, list(range(len(w.shape) - 1)))
            w = factor[:, None] * w
        if after is not None:
            w, b = w * after, b * after
        return [tf.cast(v, dtype) for v in (w, b)]
    return fold() if style.frozen is None else style.frozen.once(weights.name, fold)


def _variables(name, shape, fan_in, initial):
    of_weights, of_bias = initial(fan_in)
    with tf.variable_scope(name):
        return (tf.get_variable('weight', shape, initializer=of_weights),
                tf.get_variable('bias', shape[-1:], initializer=of_bias))


def dense(x, name, channels, style, before=None, after=None, initial=normal, activation=None):
    """Dense layer over the channels; variables ``name/weight`` [in, channels] and ``name/bias``.

    Args:
        x (tf.Tensor): [N,C], tokens [N,T,C], or images in the layout of ``style``.
        before, after: see ``_folded``. initial: (fan_in) -> initializers of weights and bias.
        activation: tensor -> tensor, of ``x``, which the layer takes; see ``layers.recompute.projection``.
    """
    depth = _depth(x, style)
    weights, bias = _folded(*_variables(name, [depth, channels], depth, initial), x.dtype, style, before, after)
    channels_first = len(x.shape) == 4 and style.data_format == 'NCHW'

    def product(inputs):
        x, weights = inputs
        x = x if activation is None else activation(x)
        if channels_first:
            return tf.nn.conv2d(x, weights[None, None], 1, 'VALID', data_format='NCHW')
        return tf.matmul(tf.reshape(x, [-1, depth]), weights)
    y = product((x, weights)) if activation is None else projection(product, (x, weights), style)
    if channels_first:
        return tf.nn.bias_add(y, bias, data_format='NCHW')
    return tf.reshape(tf.nn.bias_add(y, bias), [-1, *x.shape.as_list()[1:-1], channels])


def _depth(x, style):
    return channels_of(x, style) if len(x.shape) == 4 else int(x.shape[-1])


def conv2d(x, name, channels, kernel, style, stride=1, around=0, before=None, scaling=None, initial=normal):
    """Convolution with ``around`` zeros at each side; variables ``name/weight`` [kernel, kernel, in, channels] and
    ``name/bias``.

    Args:
        x (tf.Tensor): images in the layout of ``style``. before: see ``_folded``; without zeros around alone.
        scaling (str): ``x`` is in [-1, 1], and the convolution takes it in this scaling; None: as it is.
        initial: (fan_in) -> initializers of weights and bias.
    """
    zero = 0.0
    if scaling is not None:
        zero = zero_of(scaling)
        if around and zero is None:  # the channels' zeros differ: no one value stands for all around an image
            x, zero = scale_input(x, scaling, style), 0.0
        else:
            before, zero = as_affine(scaling), zero or 0.0
    depth = channels_of(x, style)
    weights, bias = _folded(*_variables(name, [kernel, kernel, depth, channels], kernel * kernel * depth, initial),
                            x.dtype, style, before)
    y = convolve(x, weights, stride, style, around, zero)
    return tf.nn.bias_add(y, bias, data_format=style.data_format)


def depthwise_conv2d(x, name, kernel, style):
    """Convolution of each channel by itself, of stride 1 and an odd ``kernel``, whose SAME padding is symmetric;
    variables ``name/weight`` [kernel, kernel, C, 1] and ``name/bias``."""
    depth = channels_of(x, style)
    of_weights, of_bias = normal(kernel * kernel)
    with tf.variable_scope(name):
        weights = tf.get_variable('weight', [kernel, kernel, depth, 1], initializer=of_weights)
        bias = tf.get_variable('bias', [depth], initializer=of_bias)
    return convolve_each(x, style.value(weights), 1, style, style.value(bias))
