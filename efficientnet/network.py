"""Graph of EfficientNet (EN Sec 4), with the variable names of the released checkpoints.

A function of tensors; flags, labels and attackers are unknown here.
"""
import dataclasses
import functools
from typing import Optional

import tensorflow.compat.v1 as tf

import layers
from efficientnet.scaling import plan
from layers import channels_of
from seeds import layer_seed
from smooth_activations import activate

SE_RATIO = 0.25  # EN release, of a block's input channels
MOVING_AVERAGES = ('moving_mean', 'moving_variance')
# Of the dropout before the classifier; block k has k.
_DROPOUT_LAYER = (1 << 7) - 1


@dataclasses.dataclass(frozen=True)
class Style(layers.Style):
    """What all layers of one EfficientNet have in common.

    survival_prob: probability that the last block's residual branch is kept in training, falling linearly from 1 (Huang
    et al. 2016; the release's drop connect). dropout_rate: before the classifier. noise_seed: int64 [2], where the
    random numbers of a training pass come from, the same seed giving the same numbers; wanted if ``training`` and
    either is on.
    """
    survival_prob: float = 0.8
    dropout_rate: float = 0.2
    noise_seed: Optional[tf.Tensor] = None

    def keep(self, layer, shape, probability):
        """1 / probability with that probability, else 0, as float32 of ``shape``; every ``layer`` draws its own."""
        seed = layer_seed(self.noise_seed, layer)
        return tf.floor(probability + tf.random.stateless_uniform(shape, seed)) / probability


def _numbered(name, number):
    """The name of a layer of its kind in a scope, as Keras counts them."""
    return '{}_{}'.format(name, number) if number else name


def conv2d(x, name, channels, kernel, style, stride=1, norm=None, act=False):
    """Convolution with SAME padding, variable ``name/kernel``; behind it a bias, ``name/bias``, or the scope's batch
    norm number ``norm`` and, with ``act``, the network's activation."""
    with tf.variable_scope(name):
        # EN release: a plain normal distribution of variance 2 / fan_out.
        weights = tf.get_variable('kernel', [kernel, kernel, channels_of(x, style), channels],
                                  initializer=_normal(2.0 / (kernel * kernel * channels)))
        bias = None if norm is not None else tf.get_variable('bias', [channels], initializer=tf.zeros_initializer())
    y = layers.convolution(lambda weights: layers.conv2d(x, weights, stride, style), weights, style,
                           _batch_norm(norm, style.activation if act else None))
    return y if bias is None else tf.nn.bias_add(y, style.value(bias), data_format=style.data_format)


def depthwise_conv2d(x, kernel, stride, style, norm):
    """Depthwise convolution, variable ``depthwise_conv2d/depthwise_kernel``, the scope's batch norm ``norm``, and the
    network's activation."""
    with tf.variable_scope('depthwise_conv2d'):
        # EN release: as conv2d's with one output channel.
        weights = tf.get_variable('depthwise_kernel', [kernel, kernel, channels_of(x, style), 1],
                                  initializer=_normal(2.0 / (kernel * kernel)))
    return layers.convolution(lambda weights: layers.depthwise_conv2d(x, weights, stride, style), weights, style,
                              _batch_norm(norm, style.activation), depthwise=True)


def _normal(variance):
    return tf.random_normal_initializer(stddev=variance ** 0.5)


def _batch_norm(number, activation):
    """Arguments of ``layers.batch_norm`` for the scope's batch norm ``number``, from 0, and an activation or None
    behind it; None for no batch norm."""
    return None if number is None else dict(name=_numbered('tpu_batch_normalization', number), averages=MOVING_AVERAGES,
                                            unbiased=False, behind=layers.Behind(activation))


def squeeze_excite(x, block, style):
    """Scale each channel by a factor of the means of all (Hu et al. 2018; EN release)."""
    def gate(means):
        hidden = conv2d(means, 'conv2d', max(1, int(block.channels_in * SE_RATIO)), 1, style)
        hidden = activate(hidden, style.activation)
        return tf.sigmoid(conv2d(hidden, 'conv2d_1', channels_of(x, style), 1, style))
    with tf.variable_scope('se'):
        return layers.gate_channels(x, gate, style)


def mbconv(x, block, style, layer, survival_prob):
    """Inverted residual block in the current scope (Sandler et al. 2018; EN Table 1): expand, depthwise, project.

    ``layer``: the block's number, for the random numbers of drop connect.
    """
    y, number = x, 0
    if block.expand > 1:
        y = conv2d(y, 'conv2d', block.channels_in * block.expand, 1, style, norm=0, act=True)
        number = 1
    y = depthwise_conv2d(y, block.kernel, block.stride, style, number)
    y = squeeze_excite(y, block, style)
    y = conv2d(y, _numbered('conv2d', number), block.channels, 1, style, norm=number + 1)
    if block.stride > 1 or block.channels_in != block.channels:
        return y
    if style.training and survival_prob < 1:
        y *= tf.cast(style.keep(layer, [tf.shape(x)[0], 1, 1, 1], survival_prob), y.dtype)
    return x + y


def efficientnet(image, model_name, width, depth, num_classes, style):
    """EfficientNet.

    Args:
        image (tf.Tensor): float [N,S,S,3] or [N,3,S,S], RGB, in the scaling that the weights expect.
        model_name (str): scope of all variables. width, depth (float): factors of ``scaling.plan``.
        style (Style).
    Returns:
        tf.Tensor: logits [N, num_classes].
    """
    planned = plan(width, depth)
    with tf.variable_scope(model_name):
        with tf.variable_scope('stem'):
            x = conv2d(image, 'conv2d', planned.stem_channels, 3, style, stride=2, norm=0, act=True)
        for number, block in enumerate(planned.blocks):
            with tf.variable_scope('blocks_{}'.format(number)):
                # EN release: from 1 for the first block on in equal steps.
                survival_prob = 1 - (1 - style.survival_prob) * number / len(planned.blocks)
                x = layers.block(functools.partial(mbconv, block=block, style=style, layer=number,
                                                   survival_prob=survival_prob), x, style)
        with tf.variable_scope('head'):
            x = layers.block(functools.partial(_head, channels=planned.head_channels, style=style), x, style)
            if style.training and style.dropout_rate > 0:
                x *= style.keep(_DROPOUT_LAYER, tf.shape(x), 1 - style.dropout_rate)
            return _classifier(x, num_classes)


def _head(x, channels, style):
    """The last convolution, and the means of its channels [N, C]."""
    x = conv2d(x, 'conv2d', channels, 1, style, norm=0, act=True)
    return tf.reduce_mean(tf.cast(x, tf.float32), style.spatial_axes)


def _classifier(x, num_classes):
    with tf.variable_scope('dense'):
        bound = num_classes ** -0.5  # EN release
        weights = tf.get_variable('kernel', [int(x.shape[1]), num_classes],
                                  initializer=tf.random_uniform_initializer(-bound, bound))
        bias = tf.get_variable('bias', [num_classes], initializer=tf.zeros_initializer())
        return tf.nn.bias_add(tf.matmul(x, weights), bias)
