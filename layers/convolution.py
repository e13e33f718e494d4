"""What the graph rooms share: the two layouts, convolutions with batch norm, networks that stand still, ops that a CPU
has in one layout only, recomputation."""
import dataclasses
from typing import Callable, Optional

import tensorflow.compat.v1 as tf
from tensorpack.tfutils.collection import freeze_collection

from layers import image_gradients
from smooth_activations import backward_slope, compiled_ops, current_slope


@dataclasses.dataclass(frozen=True)
class Style:
    """What all layers of one network have in common.

    data_format: 'NHWC' or 'NCHW'. training: batch norm uses (and updates the averages by) the batch's statistics.
    activation: a name of ``smooth_activations``. bn_momentum, bn_epsilon: of batch norm. recompute: blocks keep only
    their input for the backward pass, and are computed a second time there. sum_over_ranks: tensor -> its sum over all
    ranks, to share batch norm's statistics between them; None for each rank's own. frozen: of a network that stands
    still, as an attack sees it; never together with ``training``.
    """
    data_format: str
    training: bool
    activation: str
    # FD and SAT releases, as 1H Sec 5.1; SAT's evaluation command has the same for EfficientNet.
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    recompute: bool = False
    sum_over_ranks: Optional[Callable[[tf.Tensor], tf.Tensor]] = None
    frozen: Optional['Frozen'] = None

    def value(self, variable):
        """The variable, in the type that a frozen network computes in."""
        if self.frozen is None:
            return variable
        return self.frozen.once(variable.name, lambda: tf.cast(variable, self.frozen.dtype))

    @property
    def channel_axis(self):
        return 3 if self.data_format == 'NHWC' else 1

    @property
    def spatial_axes(self):
        return (1, 2) if self.data_format == 'NHWC' else (2, 3)

    def per_axis(self, batch, spatial, channel):
        """Order a value for the batch, the two spatial and the channel axis as the layout has them."""
        return [batch, spatial, spatial, channel] if self.data_format == 'NHWC' else [batch, channel, spatial, spatial]


class Frozen:
    """The parameters of a network that stands still: made once, outside of any loop that its passes are built in.

    Args:
        dtype (tf.DType): what the network's ops compute in.
    """

    def __init__(self, dtype=tf.float32):
        self.dtype = dtype
        self._made = {}

    def once(self, key, make):
        """``make()``, a structure of tensors or variables, as tensors; the same ones whenever asked for ``key``.

        They have no gradient by variables.
        """
        if key not in self._made:
            with tf.control_dependencies(None):  # this leaves loops too
                self._made[key] = tf.nest.map_structure(tf.stop_gradient, make())
        return self._made[key]


def convolution(convolve, weights, style, norm=None, depthwise=False):
    """A convolution and the batch norm behind it.

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
        return batch_norm(convolve(weights), style=style, **norm)
    channels = int(weights.shape[2 if depthwise else 3])

    def fold():
        gamma, beta, mean, variance = _batch_norm_variables(channels, **norm)
        scale = gamma * tf.math.rsqrt(variance + style.bn_epsilon)
        folded = weights * (scale[:, None] if depthwise else scale), beta - mean * scale
        return [tf.cast(v, style.frozen.dtype) for v in folded]
    folded, bias = style.frozen.once(weights.name, fold)
    return tf.nn.bias_add(convolve(folded), bias, data_format=style.data_format)


_FEW_CHANNELS = 4  # an image has 3


def conv2d(x, weights, stride, style, around=None):
    """Convolution by ``weights`` [k, k, in / groups, out] with SAME padding, or with ``around`` zeros on each side."""
    def convolve(x):
        padding = 'SAME'
        if around is not None:
            x, padding = tf.pad(x, style.per_axis([0, 0], [around, around], [0, 0])), 'VALID'
        return tf.nn.conv2d(x, weights, style.per_axis(1, stride, 1), padding, data_format=style.data_format)
    of_image = stride > 1 and x.shape[1:].is_fully_defined() and channels_of(x, style) <= _FEW_CHANNELS
    if style.frozen is None or style.data_format != 'NHWC' or not of_image or compiled_ops(x) is None:
        return convolve(x)
    phases = style.frozen.once(weights.name + '/phases', lambda: image_gradients.split(weights, stride))
    return tf.custom_gradient(lambda x: (convolve(x), lambda dy: image_gradients.by_phases(
        dy, phases, int(weights.shape[0]), stride, around, x.shape.as_list()[1:3])))(x)


def channels_of(x, style):
    """Number of channels of ``x``, a Python int."""
    return int(x.shape[style.channel_axis])


def _batch_norm_variables(channels, name, initial_gamma=1.0, averages=('mean/EMA', 'variance/EMA'), **_):
    with tf.variable_scope(name):
        return [tf.get_variable('gamma', channels, initializer=tf.constant_initializer(initial_gamma)),
                tf.get_variable('beta', channels, initializer=tf.zeros_initializer()),
                tf.get_variable(averages[0], channels, initializer=tf.zeros_initializer(), trainable=False),
                tf.get_variable(averages[1], channels, initializer=tf.ones_initializer(), trainable=False)]


def batch_norm(x, name, style, initial_gamma=1.0, averages=('mean/EMA', 'variance/EMA'), unbiased=True):
    """Batch norm with variables ``name/{gamma,beta}`` and the moving averages ``name/<averages>``.

    In training the new moving averages are in the UPDATE_OPS collection. ``unbiased``: what the variance's average
    takes in, the batch's variance with n - 1 (tensorpack, by TensorFlow's fused op) or n in the denominator.
    """
    channels = channels_of(x, style)
    variables = _batch_norm_variables(channels, name, initial_gamma, averages)
    if style.frozen is not None:
        variables = style.frozen.once(variables[0].name, lambda: variables)
    gamma, beta, mean, variance = variables
    with tf.name_scope(name):
        if not style.training:
            return tf.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=style.bn_epsilon,
                                          data_format=style.data_format, is_training=False)[0]
        count = tf.cast(tf.size(x) // channels, tf.float32)
        if style.sum_over_ranks is None:
            y, batch_mean, batch_variance = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=style.bn_epsilon,
                                                                   data_format=style.data_format, is_training=True)
            if not unbiased:
                batch_variance *= (count - 1) / count
        else:
            count, batch_mean, batch_variance = _moments_over_ranks(x, count, style)
            shape = style.per_axis(1, 1, channels)
            y = tf.nn.batch_normalization(x, *(tf.reshape(v, shape) for v in (batch_mean, batch_variance, beta, gamma)),
                                          variance_epsilon=style.bn_epsilon)
            if unbiased:
                batch_variance *= count / (count - 1)
        for average, new in ((mean, batch_mean), (variance, batch_variance)):
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS,
                                 average.assign_sub((average - new) * (1 - style.bn_momentum)))
        return y


def _moments_over_ranks(x, count, style):
    """(number of values of a channel, their means [C], their variances [C]) over the batches of all ranks."""
    mean, variance = tf.nn.moments(x, [0, *style.spatial_axes])
    # One exchange, of moments about 0; where the mean is large float32 would lose the variance in them.
    count, mean, variance = (tf.cast(v, tf.float64) for v in (count, mean, variance))
    sums = style.sum_over_ranks(tf.concat([[count], count * mean, count * (variance + tf.square(mean))], 0))
    count, (mean, square) = sums[0], tf.split(sums[1:] / sums[0], 2)
    return [tf.cast(v, tf.float32) for v in (count, mean, square - tf.square(mean))]


def max_pool(x, kernel, stride, style):
    """Max-pooling with SAME padding."""
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


def depthwise_conv2d(x, kernel, stride, style):
    """Convolution of each channel by itself with SAME padding; ``kernel`` is [k, k, C, 1]."""
    def convolve(x, kernel, style):
        return tf.nn.depthwise_conv2d(x, kernel, style.per_axis(1, stride, 1), 'SAME', data_format=style.data_format)
    compiled = compiled_ops(x)
    if compiled is not None and stride > 1:
        # TensorFlow's own gradient of these is several times slower, in bfloat16 by far the slowest op of a network.
        def convolve_and_gradient(x, style):
            return tf.custom_gradient(lambda x, kernel: (convolve(x, kernel, style), lambda dy: (
                compiled.smooth_depthwise_grad(dy=dy, kernel=kernel, size=tf.shape(x), stride=stride),
                tf.nn.depthwise_conv2d_backprop_filter(x, kernel.shape, dy, [1, stride, stride, 1], 'SAME'))))(x, kernel)
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


def block(function, x, style):
    """``function(x)``, one block of a network; with ``style.recompute`` nothing inside it stays in memory.

    ``x`` and the result may be structures of tensors.

    The function may make variables in the current variable scope and update ops, and must give the same result when it
    is called again: its random numbers must be stateless. Recomputing costs one more forward pass (Chen et al. 2016).
    """
    if not style.recompute:
        return function(x)
    scope, slope = tf.get_variable_scope(), current_slope()
    result = []

    def call(tensors):
        result[:] = [function(tf.nest.pack_sequence_as(x, tensors))]
        return tf.nest.flatten(result)

    @tf.custom_gradient
    def op(*tensors):
        def gradient(*dy, variables=()):
            # Reads nothing before dy is there; else all blocks would be recomputed at once, right after the first pass.
            with tf.control_dependencies(dy), freeze_collection([tf.GraphKeys.UPDATE_OPS]), \
                    tf.variable_scope(scope, reuse=True), backward_slope(slope):
                again = [tf.identity(v) for v in tensors]
                if style.frozen is not None:
                    return tf.gradients(call(again), again, dy), [None] * len(variables)
                # Variables also reach x by way of the attack that made the image; that is not this block's business.
                found = tf.gradients(call(again), again + list(variables), dy, stop_gradients=again)
            return (found[:len(again)], found[len(again):]) if variables else found
        return call(tensors), gradient
    return tf.nest.pack_sequence_as(result, op(*tf.nest.flatten(x)))[0]
