"""Graph of ConvNeXt (Liu et al. 2022, Sec 2), whose variables have PyTorch's names with '/' in place of '.'.

A function of tensors; flags, labels and attackers are unknown here.
"""
import functools
from typing import NamedTuple, Optional

import tensorflow.compat.v1 as tf

import layers
from layers import affine, channels_of, stem, tokens
from smooth_activations import activate

KERNEL = 7  # Liu et al. 2022, Sec 2.5


class Names(NamedTuple):
    """What the layers of a block are called. scale: None where there is no layer scale."""
    depthwise: str
    expand: str
    activation: str
    project: str
    scale: Optional[str]


# timm's names, and those of the original code, which the isotropic network has.
STAGED = Names('conv_dw', 'mlp/fc1', 'mlp/act', 'mlp/fc2', 'gamma')
ISOTROPIC = Names('dwconv', 'pwconv1', 'act', 'pwconv2', None)


def block(x, names, style):
    """One block in the current scope: depthwise convolution, layer norm, dense layer of four times the channels,
    activation, dense layer, layer scale; and the shortcut (Liu et al. 2022, Figure 4)."""
    channels = channels_of(x, style)
    y = affine.depthwise_conv2d(x, names.depthwise, KERNEL, style)
    y = affine.dense(tokens.standardise(y, style), names.expand, 4 * channels, style,
                     before=tokens.norm_variables('norm', channels))

    def activation(y):
        with tf.variable_scope(names.activation):
            return activate(y, style.activation)
    scale = names.scale and tokens.layer_scale(names.scale, channels)
    return x + affine.dense(y, names.project, channels, style, after=scale, activation=activation)


def _stem(image, plan, style, scaling):
    width = plan.widths[0]
    if plan.stem:
        return stem.conv_stem(image, 'stem/stem', plan.stem, width, plan.patch_size, style, scaling)
    if plan.isotropic:
        return stem.patches(image, 'stem', width, plan.patch_size, style, scaling, affine.normal)
    x = stem.patches(image, 'stem/0', width, plan.patch_size, style, scaling, affine.normal)
    return tokens.layer_norm(x, 'stem/1', style)


def _downsample(x, channels, style):
    """Half the positions along a side, in the current scope."""
    return affine.conv2d(tokens.standardise(x, style), 'downsample/1', channels, 2, style, stride=2,
                         before=tokens.norm_variables('downsample/0', channels_of(x, style)))


def _classifier(x, norm, name, num_classes, style):
    """Global average pooling, layer norm and dense layer, in float32."""
    x = tf.reduce_mean(tf.cast(x, tf.float32), style.spatial_axes)
    return affine.dense(tokens.standardise(x, style), name, num_classes, style,
                        before=tokens.norm_variables(norm, int(x.shape[1])))


def convnext(image, plan, num_classes, style, scaling):
    """ConvNeXt.

    Args:
        image (tf.Tensor): float [N,S,S,3] or [N,3,S,S] in [-1, 1], RGB.
        plan (sizes.Plan). style (layers.Style).
        scaling (str): of ``layers.scaling``, what the weights take.
    Returns:
        tf.Tensor: logits [N, num_classes].
    """
    names = ISOTROPIC if plan.isotropic else STAGED
    x = _stem(image, plan, style, scaling)
    for number, (blocks, width) in enumerate(zip(plan.blocks, plan.widths)):
        stage = '' if plan.isotropic else 'stages/{}/'.format(number)
        if number > 0:
            with tf.variable_scope(stage[:-1]):
                x = _downsample(x, width, style)
        for each in range(blocks):
            with tf.variable_scope('{}blocks/{}'.format(stage, each)):
                x = layers.block(functools.partial(block, names=names, style=style), x, style)
    return _classifier(x, *(('norm', 'head') if plan.isotropic else ('head/norm', 'head/fc')), num_classes, style)
