"""Convolutions with the batch norm behind them, pooling and gates, in both layouts; ops that a CPU has in one layout
only."""
import dataclasses

import tensorflow.compat.v1 as tf

from layers import image_gradients, winograd
from layers.normalisation import Behind, batch_norm, norm_as_affine
from layers.style import channels_of
from smooth_activations import compiled_ops


def convolution(convolve, weights, style, norm=None, depthwise=False):
    """A convolution, and the batch norm behind it with what that has behind it.

    With moving averages batch norm is an affine map of each channel. In a frozen network it is part of the weights and
    of a bias, and so costs nothing in the passes of an attack.

    Args:
        convolve: (weights) -> convolution. weights (tf.Variable): [k, k, in, channels], or [k, k, channels, 1] if
            ``depthwise``.
        norm (dict): arguments of ``batch_norm`` after ``style``, made in the current variable scope; None for none.
    """
    if norm is None:
        return convolve(style.value(weights))
    if style.frozen is None:
        return batch_norm(convolve(style.value(weights)), style=style, **norm)
    channels = int(weights.shape[2 if depthwise else 3])

    def fold():
        scale, offset = norm_as_affine(channels, style, **norm)
        folded = weights * (scale[:, None] if depthwise else scale), offset
        return [tf.cast(v, style.frozen.dtype) for v in folded]
    folded, bias = style.frozen.once(weights.name, fold)
    y = tf.nn.bias_add(convolve(folded), bias, data_format=style.data_format)
    return norm.get('behind', Behind()).of(y)


_FEW_CHANNELS = 4  # an image has 3


def conv2d(x, weights, stride, style, around=None, zero=0.0):
    """Convolution by ``weights`` [k, k, in / groups, out] with SAME padding, or with ``around`` times ``zero`` on each
    side."""
    def convolve(x):
        padding = 'SAME' if around is None else 'VALID'
        if around:
            x = tf.pad(x, style.per_axis([0, 0], [around, around], [0, 0]), constant_values=zero)
        return tf.nn.conv2d(x, weights, style.per_axis(1, stride, 1), padding, data_format=style.data_format)
    if around in (None, 1) and zero == 0 and winograd.usable(x, weights, stride, style):
        return winograd.conv2d(x, weights, style)
    of_image = stride > 1 and x.shape[1:].is_fully_defined() and channels_of(x, style) <= _FEW_CHANNELS
    if style.frozen is None or style.data_format != 'NHWC' or not of_image or compiled_ops(x) is None:
        return convolve(x)
    phases = style.frozen.once(weights.name + '/phases', lambda: image_gradients.split(weights, stride))
    return tf.custom_gradient(lambda x: (convolve(x), lambda dy: image_gradients.by_phases(
        dy, phases, int(weights.shape[0]), stride, around, x.shape.as_list()[1:3])))(x)


def max_pool(x, kernel, stride, style, around=None):
    """Max-pooling with SAME padding, or with ``around`` places on each side that are never the largest."""
    if around is not None:
        return _max_pool_around(x, kernel, stride, style, around)

    def pool(x, style):
        return tf.nn.max_pool2d(x, style.per_axis(1, kernel, 1), style.per_axis(1, stride, 1), 'SAME',
                                data_format=style.data_format)
    compiled = compiled_ops(x)
    if compiled is not None:
        # In a loop TensorFlow takes the slow one of its two kernels of this gradient as often as the other.
        def pool_and_gradient(x, style):
            return tf.custom_gradient(lambda x: (pool(x, style), lambda dy: compiled.smooth_max_pool_grad(
                dy=dy, x=x, kernel=kernel, stride=stride)))(x)
        return _nhwc_on_cpu(pool_and_gradient, x, style)
    # TensorFlow has no gradient of max-pooling in NCHW on a CPU.
    return _nhwc_on_cpu(pool, x, style)


def _max_pool_around(x, kernel, stride, style, around):
    """``max_pool`` of more places than asked for, of which it sees as many in SAME padding as it would without any."""
    assert kernel - stride <= 1, (kernel, stride)  # else SAME would begin before the first place
    sizes = [int(x.shape[axis]) for axis in style.spatial_axes]
    behind = [around + -(size + 2 * around) % stride for size in sizes]
    pads = [[around, after] for after in behind]
    images = style.data_format == 'NHWC'
    x = tf.pad(x, [[0, 0], *pads, [0, 0]] if images else [[0, 0], [0, 0], *pads], constant_values=x.dtype.min)
    rows, columns = (slice((size + 2 * around - kernel) // stride + 1) for size in sizes)
    y = max_pool(x, kernel, stride, style)
    return y[:, rows, columns] if images else y[:, :, rows, columns]


_COMPILED_SIDE = 7  # of the kernels that the compiled depthwise convolution has, ConvNeXt's


def depthwise_conv2d(x, kernel, stride, style, bias=None):
    """Convolution of each channel by itself with SAME padding; ``kernel`` is [k, k, C, 1], ``bias`` [C] or None."""
    compiled = compiled_ops(x)
    if compiled is not None and stride == 1 and kernel.shape[:2].as_list() == [_COMPILED_SIDE] * 2:
        return _nhwc_on_cpu(lambda x, style: _compiled_depthwise(compiled, x, kernel, bias), x, style)
    y = _depthwise(compiled, x, kernel, stride, style)
    return y if bias is None else tf.nn.bias_add(y, bias, data_format=style.data_format)


def _compiled_depthwise(compiled, x, kernel, bias):
    """The bias included, each way is one pass over memory; TensorFlow's own ways take several times as long."""
    biases = [] if bias is None else [tf.identity(bias)]

    def op(x, kernel, *biases):
        def gradient(dy):
            dx = compiled.smooth_depthwise(x=dy, kernel=kernel, bias=[], turned=True)
            of_parameters = compiled.smooth_depthwise_kernel_grad(dy=dy, x=x)
            return (dx, *(tf.cast(v, x.dtype) for v in of_parameters[:1 + len(biases)]))
        return compiled.smooth_depthwise(x=x, kernel=kernel, bias=biases), gradient
    return tf.custom_gradient(op)(x, tf.identity(kernel), *biases)


def _depthwise(compiled, x, kernel, stride, style):
    def convolve(x, kernel, style):
        return tf.nn.depthwise_conv2d(x, kernel, style.per_axis(1, stride, 1), 'SAME', data_format=style.data_format)
    if compiled is not None and stride > 1:
        # TensorFlow's own gradient of these is several times slower, in bfloat16 by far the slowest op of a network.
        def convolve_and_gradient(x, style):
            return tf.custom_gradient(lambda x, kernel: (convolve(x, kernel, style), lambda dy: (
                compiled.smooth_depthwise_grad(dy=dy, kernel=kernel, size=tf.shape(x), stride=stride),
                tf.nn.depthwise_conv2d_backprop_filter(x, kernel.shape, dy, [1, stride, stride, 1], 'SAME'))))(x,
                                                                                                               kernel)
        return _nhwc_on_cpu(convolve_and_gradient, x, style)
    # As for max-pooling.
    return _nhwc_on_cpu(lambda x, style: convolve(x, kernel, style), x, style)


def gate_channels(x, gate, style):
    """Each channel of each image times a factor of the means of all.

    Args:
        gate: (means) -> factors, both like ``x`` with a spatial size of 1. May read the network's variables.
    """
    compiled = compiled_ops(x)
    if style.frozen is None or style.data_format != 'NHWC' or compiled is None:
        means = tf.reduce_mean(tf.cast(x, tf.float32), style.spatial_axes, keepdims=True)
        return x * gate(tf.cast(means, x.dtype))

    @tf.custom_gradient
    def op(x):
        # Forward and backward two passes over memory each: both gradients of x are in one.
        pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
        means = tf.cast(compiled.smooth_channel_sums(x=[x]) / pixels, x.dtype)
        factor = gate(means)
        wide = tf.cast(factor, tf.float32)

        def gradient(dy, variables=()):
            dfactor = tf.cast(compiled.smooth_channel_sums(x=[dy, x]), x.dtype)
            dmeans, = tf.gradients(factor, means, dfactor)
            dx = compiled.smooth_channel_affine(x=dy, factor=wide, offset=[tf.cast(dmeans, tf.float32) / pixels])
            return (dx, [None] * len(variables)) if variables else dx
        return compiled.smooth_channel_affine(x=x, factor=wide, offset=[]), gradient
    return op(x)


def _nhwc_on_cpu(op, x, style):
    if style.data_format == 'NHWC' or tf.config.list_physical_devices('GPU'):
        return op(x, style)
    y = op(tf.transpose(x, [0, 2, 3, 1]), dataclasses.replace(style, data_format='NHWC'))
    return tf.transpose(y, [0, 3, 1, 2])
