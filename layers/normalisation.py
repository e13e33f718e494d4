"""Batch norm: of a batch, of all ranks, or by moving averages."""
import tensorflow.compat.v1 as tf

from layers.style import channels_of


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


def batch_norm(x, name, style, initial_gamma=1.0, averages=('mean/EMA', 'variance/EMA'), unbiased=True):
    """Batch norm with variables ``name/{gamma,beta}`` and the moving averages ``name/<averages>``.

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
            y = tf.cast(tf.nn.batch_normalization(
                tf.cast(x, tf.float32), *(tf.reshape(v, shape) for v in (batch_mean, batch_variance, beta, gamma)),
                variance_epsilon=style.bn_epsilon), x.dtype)
            if unbiased:
                batch_variance *= count / (count - 1)
        for average, new in ((mean, batch_mean), (variance, batch_variance)):
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS,
                                 average.assign_sub((average - new) * (1 - style.bn_momentum)))
        return y


def _moments_over_ranks(x, count, style):
    """(number of values of a channel, their means [C], their variances [C]) over the batches of all ranks."""
    mean, variance = tf.nn.moments(tf.cast(x, tf.float32), [0, *style.spatial_axes])
    # One exchange, of moments about 0; where the mean is large float32 would lose the variance in them.
    count, mean, variance = (tf.cast(v, tf.float64) for v in (count, mean, variance))
    sums = style.sum_over_ranks(tf.concat([[count], count * mean, count * (variance + tf.square(mean))], 0))
    count, (mean, square) = sums[0], tf.split(sums[1:] / sums[0], 2)
    return [tf.cast(v, tf.float32) for v in (count, mean, square - tf.square(mean))]
