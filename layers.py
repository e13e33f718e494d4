"""What the graph rooms share: the two layouts, batch norm, ops that a CPU has in one layout only, recomputation."""
import dataclasses
from typing import Callable, Optional

import tensorflow.compat.v1 as tf
from tensorpack.tfutils.collection import freeze_collection

from smooth_activations import backward_slope, current_slope


@dataclasses.dataclass(frozen=True)
class Style:
    """What all layers of one network have in common.

    data_format: 'NHWC' or 'NCHW'. training: batch norm uses (and updates the averages by) the batch's statistics.
    activation: a name of ``smooth_activations``. bn_momentum, bn_epsilon: of batch norm. recompute: blocks keep only
    their input for the backward pass, and are computed a second time there. sum_over_ranks: tensor -> its sum over all
    ranks, to share batch norm's statistics between them; None for each rank's own.
    """
    data_format: str
    training: bool
    activation: str
    # FD and SAT releases, as 1H Sec 5.1; SAT's evaluation command has the same for EfficientNet.
    bn_momentum: float = 0.9
    bn_epsilon: float = 1e-5
    recompute: bool = False
    sum_over_ranks: Optional[Callable[[tf.Tensor], tf.Tensor]] = None

    @property
    def channel_axis(self):
        return 3 if self.data_format == 'NHWC' else 1

    @property
    def spatial_axes(self):
        return (1, 2) if self.data_format == 'NHWC' else (2, 3)

    def per_axis(self, batch, spatial, channel):
        """Order a value for the batch, the two spatial and the channel axis as the layout has them."""
        return [batch, spatial, spatial, channel] if self.data_format == 'NHWC' else [batch, channel, spatial, spatial]


def channels_of(x, style):
    """Number of channels of ``x``, a Python int."""
    return int(x.shape[style.channel_axis])


def batch_norm(x, name, style, initial_gamma=1.0, averages=('mean/EMA', 'variance/EMA'), unbiased=True):
    """Batch norm with variables ``name/{gamma,beta}`` and the moving averages ``name/<averages>``.

    In training the new moving averages are in the UPDATE_OPS collection. ``unbiased``: what the variance's average
    takes in, the batch's variance with n - 1 (tensorpack, by TensorFlow's fused op) or n in the denominator.
    """
    channels = [channels_of(x, style)]
    with tf.variable_scope(name):
        gamma = tf.get_variable('gamma', channels, initializer=tf.constant_initializer(initial_gamma))
        beta = tf.get_variable('beta', channels, initializer=tf.zeros_initializer())
        mean = tf.get_variable(averages[0], channels, initializer=tf.zeros_initializer(), trainable=False)
        variance = tf.get_variable(averages[1], channels, initializer=tf.ones_initializer(), trainable=False)
        if not style.training:
            return tf.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=style.bn_epsilon,
                                          data_format=style.data_format, is_training=False)[0]
        count = tf.cast(tf.size(x) // channels[0], tf.float32)
        if style.sum_over_ranks is None:
            y, batch_mean, batch_variance = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=style.bn_epsilon,
                                                                   data_format=style.data_format, is_training=True)
            if not unbiased:
                batch_variance *= (count - 1) / count
        else:
            count, batch_mean, batch_variance = _moments_over_ranks(x, count, style)
            shape = style.per_axis(1, 1, channels[0])
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
    # TensorFlow has no gradient of max-pooling in NCHW on a CPU.
    return _nhwc_on_cpu(lambda x, style: tf.nn.max_pool2d(
        x, style.per_axis(1, kernel, 1), style.per_axis(1, stride, 1), 'SAME', data_format=style.data_format), x, style)


def depthwise_conv2d(x, kernel, stride, style):
    """Convolution of each channel by itself with SAME padding; ``kernel`` is [k, k, C, 1]."""
    # As for max-pooling.
    return _nhwc_on_cpu(lambda x, style: tf.nn.depthwise_conv2d(
        x, kernel, style.per_axis(1, stride, 1), 'SAME', data_format=style.data_format), x, style)


def _nhwc_on_cpu(op, x, style):
    if style.data_format == 'NHWC' or tf.config.list_physical_devices('GPU'):
        return op(x, style)
    y = op(tf.transpose(x, [0, 2, 3, 1]), dataclasses.replace(style, data_format='NHWC'))
    return tf.transpose(y, [0, 3, 1, 2])


def block(function, x, style):
    """``function(x)``, one block of a network; with ``style.recompute`` nothing inside it stays in memory.

    The function may make variables in the current variable scope and update ops, and must give the same result when it
    is called again: its random numbers must be stateless. Recomputing costs one more forward pass (Chen et al. 2016).
    """
    if not style.recompute:
        return function(x)
    scope, slope = tf.get_variable_scope(), current_slope()

    @tf.custom_gradient
    def op(x):
        def gradient(dy, variables=()):
            # Reads nothing before dy is there; else all blocks would be recomputed at once, right after the first pass.
            with tf.control_dependencies([dy]), freeze_collection([tf.GraphKeys.UPDATE_OPS]), \
                    tf.variable_scope(scope, reuse=True), backward_slope(slope):
                again = tf.identity(x)
                # Variables also reach x by way of the attack that made the image; that is not this block's business.
                dx, *dv = tf.gradients(function(again), [again] + list(variables), dy, stop_gradients=[again])
            return (dx, dv) if variables else dx
        return function(x), gradient
    return op(x)
