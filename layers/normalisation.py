"""Batch norm, of a batch, of all ranks, or by moving averages, and what a network has behind it."""
import contextlib
from typing import Callable, NamedTuple, Optional

import tensorflow.compat.v1 as tf

from layers.style import channels_of
from smooth_activations import activate, activate_for_two, compiled_arguments, compiled_ops


class Behind(NamedTuple):
    """What is behind a batch norm: the activation of that name of its result plus a shortcut; None for none.

    shortcut: () -> what is added; built behind the batch norm's variables, so that those have the order of the
    released checkpoints. scope: that of its and the activation's variables; None is the current one. twice: as a pair
    of equal tensors, for two uses, see ``activate_for_two``.
    """
    activation: Optional[str] = None
    shortcut: Optional[Callable[[], tf.Tensor]] = None
    scope: Optional[tf.VariableScope] = None
    twice: bool = False

    @contextlib.contextmanager
    def _in_scope(self):
        with tf.variable_scope(self.scope or tf.get_variable_scope(), auxiliary_name_scope=False):
            yield

    def residuals(self):
        """[] or [what is added]."""
        with self._in_scope():
            return [] if self.shortcut is None else [self.shortcut()]

    def of(self, y):
        """The same of ``y``, by ops for each."""
        for residual in self.residuals():
            y = y + residual
        if self.activation is None:
            return (y, y) if self.twice else y
        with self._in_scope():
            return (activate_for_two if self.twice else activate)(y, self.activation)


def batch_norm_variables(channels, name, initial_gamma=1.0, averages=('mean/EMA', 'variance/EMA'), **_):
    with tf.variable_scope(name):
        return [tf.get_variable('gamma', channels, initializer=tf.constant_initializer(initial_gamma)),
                tf.get_variable('beta', channels, initializer=tf.zeros_initializer()),
                tf.get_variable(averages[0], channels, initializer=tf.zeros_initializer(), trainable=False),
                tf.get_variable(averages[1], channels, initializer=tf.ones_initializer(), trainable=False)]


def norm_as_affine(channels, style, **norm):
    """(factor [C], offset [C]): what batch norm is with its moving averages; ``norm``: arguments of ``batch_norm``."""
    gamma, beta, mean, variance = batch_norm_variables(channels, **norm)
    scale = gamma * tf.math.rsqrt(variance + style.bn_epsilon)
    return scale, beta - mean * scale


def batch_norm(x, name, style, initial_gamma=1.0, averages=('mean/EMA', 'variance/EMA'), unbiased=True,
               behind=Behind()):
    """Batch norm with variables ``name/{gamma,beta}`` and the moving averages ``name/<averages>``, and what is
    ``behind`` it.

    In training the new moving averages are in the UPDATE_OPS collection; but where gamma and beta are not trained, they
    stay, and stand for the batch's statistics. ``unbiased``: what the variance's average takes in, the batch's variance
    with n - 1 (tensorpack, by TensorFlow's fused op) or n in the denominator.
    """
    channels = channels_of(x, style)
    variables = batch_norm_variables(channels, name, initial_gamma, averages)
    if style.frozen is not None:
        variables = style.frozen.once(variables[0].name, lambda: variables)
    gamma, beta, mean, variance = variables
    with tf.name_scope(name):
        if not style.training or not (gamma.trainable or beta.trainable):
            return behind.of(tf.nn.fused_batch_norm(
                x, gamma, beta, mean, variance, epsilon=style.bn_epsilon, data_format=style.data_format,
                is_training=False)[0])
        y, batch_mean, batch_variance = _by_batch(x, gamma, beta, style, unbiased, behind)
        for average, new in ((mean, batch_mean), (variance, batch_variance)):
            if x.dtype == tf.float16:  # whose range ends early; a step of such gradients is left out
                new = tf.where(tf.is_finite(new), new, average)
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS,
                                 average.assign_sub((average - new) * (1 - style.bn_momentum)))
        return y


def _by_batch(x, gamma, beta, style, unbiased, behind):
    """What is ``behind`` the batch norm of ``x``, the batch's means and its variances, [C] each."""
    channels = channels_of(x, style)
    count = tf.cast(tf.size(x) // channels, tf.float32)
    functions = 2 * (dict(function='none'),) if behind.activation is None else compiled_arguments(behind.activation)
    compiled = compiled_ops(x) if style.data_format == 'NHWC' and functions and style.sum_over_ranks is None else None
    if compiled is not None:
        y, mean, variance = _compiled(compiled, x, gamma, beta, style.bn_epsilon, functions, behind)
    elif style.sum_over_ranks is None:
        y, mean, variance = tf.nn.fused_batch_norm(x, gamma, beta, epsilon=style.bn_epsilon,
                                                   data_format=style.data_format, is_training=True)
        return behind.of(y), mean, variance if unbiased else variance * ((count - 1) / count)
    else:
        count, mean, variance = _moments_over_ranks(x, count, style)
        shape = style.per_axis(1, 1, channels)
        y = behind.of(tf.cast(tf.nn.batch_normalization(
            tf.cast(x, tf.float32), *(tf.reshape(v, shape) for v in (mean, variance, beta, gamma)),
            variance_epsilon=style.bn_epsilon), x.dtype))
    return y, mean, variance * (count / tf.maximum(count - 1, 1)) if unbiased else variance


def _compiled(compiled, x, gamma, beta, epsilon, functions, behind):
    """``_by_batch`` by one op each way, with the biased variance: of what lies between ``x`` and the result nothing
    stays in memory for the backward pass."""
    residuals = behind.residuals()

    def op(x, gamma, beta, *residuals):
        y, mean, variance = compiled.smooth_batch_norm(x=x, gamma=gamma, beta=beta, residual=residuals,
                                                       epsilon=epsilon, **functions[0])
        ys = (y, tf.identity(y)) if behind.twice else (y,)

        def gradient(*dy):
            *found, of_residual = compiled.smooth_batch_norm_grad(
                dy=dy[:len(ys)], x=x, gamma=gamma, beta=beta, mean=mean, variance=variance, residual=residuals,
                epsilon=epsilon, **functions[1])
            return (*found, *of_residual)
        return (*ys, mean, variance), gradient
    *ys, mean, variance = tf.custom_gradient(op)(x, tf.identity(gamma), tf.identity(beta), *residuals)
    return tuple(ys) if behind.twice else ys[0], mean, variance


def _moments_over_ranks(x, count, style):
    """(number of values of a channel, their means [C], their variances [C]) over the batches of all ranks."""
    mean, variance = tf.nn.moments(tf.cast(x, tf.float32), [0, *style.spatial_axes])
    # One exchange, of moments about 0; where the mean is large float32 would lose the variance in them.
    count, mean, variance = (tf.cast(v, tf.float64) for v in (count, mean, variance))
    sums = style.sum_over_ranks(tf.concat([[count], count * mean, count * (variance + tf.square(mean))], 0))
    count, (mean, square) = sums[0], tf.split(sums[1:] / sums[0], 2)
    return [tf.cast(v, tf.float32) for v in (count, mean, square - tf.square(mean))]
