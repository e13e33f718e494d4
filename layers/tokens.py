"""What networks without batch norm are made of beside convolutions: layer norm, layer scale, attention.

Of tokens [N,T,C], of vectors [N,C], or of images in either layout, each pixel by itself.
"""
import numpy as np
import tensorflow.compat.v1 as tf

from layers.style import channels_of
from smooth_activations import compiled_ops

# Singh et al. 2023, as timm's ConvNeXt and ViT; PyTorch's own is 1e-5.
LAYER_NORM_EPSILON = 1e-6
LAYER_SCALE = 1e-6  # Liu et al. 2022, initial value


def standardise(x, style):
    """A layer norm without its factor and offset: the channels less their mean, by the root of their variance."""
    axis = style.channel_axis if len(x.shape) == 4 else -1
    compiled = _compiled_rows(x, axis)
    if compiled is not None:
        return tf.custom_gradient(lambda x: (
            compiled.smooth_layer_norm(x=x, affine=[], epsilon=LAYER_NORM_EPSILON),
            lambda dy: compiled.smooth_layer_norm_grad(dy=dy, x=x, scale=[], epsilon=LAYER_NORM_EPSILON)))(x)
    wide = tf.cast(x, tf.float32)
    centred = wide - tf.reduce_mean(wide, axis, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis, keepdims=True)
    return tf.cast(centred * tf.math.rsqrt(variance + LAYER_NORM_EPSILON), x.dtype)


def _compiled_rows(x, axis):
    """The compiled ops, if they have a layer norm over that axis of ``x``."""
    return compiled_ops(x) if axis in (-1, len(x.shape) - 1) else None


def norm_variables(name, channels):
    """Factor and offset of a layer norm, ``name/{weight,bias}``: for a dense layer behind ``standardise`` to do."""
    with tf.variable_scope(name):
        return (tf.get_variable('weight', [channels], initializer=tf.ones_initializer()),
                tf.get_variable('bias', [channels], initializer=tf.zeros_initializer()))


def layer_norm(x, name, style):
    """Layer norm over the channels, with the variables ``name/{weight,bias}``."""
    images = len(x.shape) == 4
    channels = channels_of(x, style) if images else int(x.shape[-1])
    factor, offset = (style.value(v) for v in norm_variables(name, channels))
    compiled = _compiled_rows(x, style.channel_axis if images else -1)
    if compiled is not None:
        return _compiled_layer_norm(compiled, x, factor, offset)
    if images and style.data_format == 'NCHW':
        factor, offset = (tf.reshape(v, [-1, 1, 1]) for v in (factor, offset))
    return standardise(x, style) * factor + offset


def _compiled_layer_norm(compiled, x, factor, offset):
    """Layer norm, and its affine map, in one pass over memory each way."""
    def op(x, factor, offset):
        def gradient(dy):
            of_parameters = compiled.smooth_layer_norm_parameters_grad(dy=dy, x=x, epsilon=LAYER_NORM_EPSILON)
            return (compiled.smooth_layer_norm_grad(dy=dy, x=x, scale=[factor], epsilon=LAYER_NORM_EPSILON),
                    *(tf.cast(v, x.dtype) for v in of_parameters))
        return compiled.smooth_layer_norm(x=x, affine=[factor, offset], epsilon=LAYER_NORM_EPSILON), gradient
    return tf.custom_gradient(op)(x, tf.identity(factor), tf.identity(offset))


def layer_scale(name, channels):
    """The factor of each channel of a block's branch, variable ``name``: for the dense layer before it to do."""
    return tf.get_variable(name, [channels], initializer=tf.constant_initializer(LAYER_SCALE))


def attention(qkv, heads):
    """Multi-head attention of all tokens to all (Vaswani et al. 2017).

    Args:
        qkv (tf.Tensor): [N,T,3*C], ordered [3, heads, C / heads]; the queries are scaled already.
    Returns:
        tf.Tensor: [N,T,C].
    """
    compiled = compiled_ops(qkv)
    if compiled is not None:
        return tf.custom_gradient(lambda qkv: (compiled.smooth_attention(qkv=qkv, heads=heads), lambda dy: (
            compiled.smooth_attention_grad(dy=dy, qkv=qkv, heads=heads))))(qkv)
    tokens, channels = int(qkv.shape[1]), int(qkv.shape[2]) // 3
    split = tf.transpose(tf.reshape(qkv, [-1, tokens, 3, heads, channels // heads]), [2, 0, 3, 1, 4])
    query, key, value = tf.unstack(split)
    scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
    mixed = tf.matmul(tf.cast(tf.nn.softmax(scores), qkv.dtype), value)
    return tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, tokens, channels])


def query_scale(channels, heads):
    """Factors [3 * channels] of ``attention``'s queries, keys and values, for the dense layer before it to do."""
    return np.float32([(channels / heads) ** -0.5] * channels + [1.0] * 2 * channels)
