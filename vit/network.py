"""Graph of vision transformers (Dosovitskiy et al. 2021, Sec 3.1), whose variables have PyTorch's names with '/' in
place of '.'.

A function of tensors; flags, labels and attackers are unknown here.
"""
import functools

import tensorflow.compat.v1 as tf

import layers
from layers import affine, stem, tokens
from smooth_activations import activate


def block(x, plan, style):
    """One block in the current scope: attention, then two dense layers, each behind a layer norm and with a shortcut.

    Args:
        x (tf.Tensor): tokens [N,T,C].
    """
    width = plan.width

    def branch(y, norm, name, channels, after=None):
        return affine.dense(tokens.standardise(y, style), name, channels, style,
                            before=tokens.norm_variables(norm, width), after=after)

    def scale(name):
        return tokens.layer_scale(name, width) if plan.later_class else None
    y = tokens.attention(branch(x, 'norm1', 'attn/qkv', 3 * width, tokens.query_scale(width, plan.heads)), plan.heads)
    x += affine.dense(y, 'attn/proj', width, style, after=scale('ls1/gamma'))

    def activation(y):
        with tf.variable_scope('mlp/act'):
            return activate(y, style.activation)
    y = branch(x, 'norm2', 'mlp/fc1', 4 * width)
    return x + affine.dense(y, 'mlp/fc2', width, style, after=scale('ls2/gamma'), activation=activation)


def _patches(image, plan, style, scaling):
    """Tokens [N,T,C] of the patches, row by row."""
    name = 'patch_embed/proj'
    if plan.stem:
        x = stem.conv_stem(image, name + '/stem', plan.stem, plan.width, plan.patch_size, style, scaling)
    else:
        x = stem.patches(image, name, plan.width, plan.patch_size, style, scaling, affine.uniform)
    if style.data_format == 'NCHW':
        x = tf.transpose(x, [0, 2, 3, 1])
    _, height, width, channels = x.shape.as_list()
    return tf.reshape(x, [-1, height * width, channels])


def _with_positions(x, plan, style):
    """The class token before the others, and the position embedding added."""
    count, width = x.shape.as_list()[1:]
    # timm's initial values.
    first = style.value(tf.get_variable('cls_token', [1, 1, width],
                                        initializer=tf.random_normal_initializer(stddev=1e-6)))
    place = style.value(tf.get_variable('pos_embed', [1, count + (not plan.later_class), width],
                                        initializer=tf.random_normal_initializer(stddev=0.02)))
    # The gradient of tf.tile transposes whole numbers, which TensorFlow complains of on some CPUs.
    first = tf.broadcast_to(first, [tf.shape(x)[0], 1, width])
    return tf.concat([first, x + place], 1) if plan.later_class else tf.concat([first, x], 1) + place


def vit(image, plan, num_classes, style, scaling):
    """Vision transformer.

    Args:
        image (tf.Tensor): float [N,S,S,3] or [N,3,S,S] in [-1, 1], RGB; S is a multiple of the patches'.
        plan (sizes.Plan). style (layers.Style).
        scaling (str): of ``layers.scaling``, what the weights take.
    Returns:
        tf.Tensor: logits [N, num_classes].
    """
    x = _with_positions(_patches(image, plan, style, scaling), plan, style)
    for number in range(plan.blocks):
        with tf.variable_scope('blocks/{}'.format(number)):
            x = layers.block(functools.partial(block, plan=plan, style=style), x, style)
    # The others' layer norm and dense layer would be of no use.
    x = tf.cast(x[:, 0], tf.float32)
    return affine.dense(tokens.standardise(x, style), 'head', num_classes, style,
                        before=tokens.norm_variables('norm', plan.width))
