"""Graphs of the residual networks: ImageNet ResNet and ResNeXt, their denoising variants, and CIFAR ResNets.

Functions of tensors; flags, labels and attackers are unknown here. Variables have the names and shapes of the
released checkpoints in either layout.
Papers: He et al. 2015 (ResNet), Xie et al. 2017 (ResNeXt), FD Sec 4 (denoising), 1H Sec 5.1 (initial values).
"""
import dataclasses
import functools

import tensorflow.compat.v1 as tf

import layers
from layers import channels_of, max_pool

# He et al. 2015, Table 1: residual blocks in the four groups.
IMAGENET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# He et al. 2015, Sec 4.2: 6n + 2 layers, n blocks in each of three groups of 16, 32 and 64 channels.
CIFAR_BLOCKS = {8: 1, 20: 3, 32: 5, 56: 9}
# The ResNet-18 for 32x32 images of the robustness papers: two basic blocks in each of four groups of 64 to 512.
CIFAR_WIDE_DEPTH = 18

PADDINGS = ('explicit', 'same', 'symmetric')


@dataclasses.dataclass(frozen=True)
class Style(layers.Style):
    """What all layers of one residual network have in common.

    padding of strided convolutions: 'explicit' pads k//2 on all sides (SAT release), 'same' is TensorFlow's, which pads
    more at the bottom and right (FD release); 'symmetric' is 'explicit' of the max-pooling too (torchvision).
    """
    padding: str = 'explicit'


def _weights(inputs, channels, kernel, initializer=None):
    """``W`` of the current scope, [kernel, kernel, inputs, channels]."""
    # 1H Sec 5.1 as the releases have it: variance 2 / fan_out, with fan_out not divided by the groups.
    return tf.get_variable('W', [kernel, kernel, inputs, channels],
                           initializer=initializer or tf.variance_scaling_initializer(2.0, 'fan_out'))


def _around(kernel, stride, style):
    """Places around an image, as ``layers.conv2d`` wants them."""
    return kernel // 2 if stride > 1 and kernel > 1 and style.padding != 'same' else None


def conv2d(x, name, channels, kernel, style, stride=1, group=1, initializer=None, norm=None):
    """Convolution without bias; weights ``name/W`` of shape [kernel, kernel, in / group, out].

    ``norm``: of the batch norm behind it, in its scope; see ``layers.convolution``.
    """
    with tf.variable_scope(name):
        weights = _weights(channels_of(x, style) // group, channels, kernel, initializer)
        around = _around(kernel, stride, style)
        return layers.convolution(lambda weights: layers.conv2d(x, weights, stride, style, around), weights, style,
                                  norm)


def conv_bn(x, name, channels, kernel, style, stride=1, group=1, act=False, initial_gamma=1.0, shortcut=None):
    """Convolution, batch norm and, with ``act``, the network's activation, all under the scope ``name``.

    With ``shortcut``, see ``layers.Behind``, it ends a block: the activation of the sum, which is the block's own, in a
    pair of equal tensors.
    """
    if shortcut is not None:
        behind = layers.Behind(style.activation, shortcut, tf.get_variable_scope(), twice=True)
    else:
        behind = layers.Behind(style.activation if act else None)
    return conv2d(x, name, channels, kernel, style, stride=stride, group=group,
                  norm=dict(name='bn', initial_gamma=initial_gamma, behind=behind))


def classifier(x, num_classes, style):
    """Global average pooling and ``linear/{W,b}``; returns logits [N, num_classes], tensor ``linear/output``."""
    x = tf.reduce_mean(tf.cast(x, tf.float32), style.spatial_axes, name='gap')
    with tf.variable_scope('linear'):
        # 1H Sec 5.1: a zero-mean Gaussian with standard deviation 0.01.
        weights = tf.get_variable('W', [int(x.shape[1]), num_classes],
                                  initializer=tf.random_normal_initializer(stddev=0.01))
        bias = tf.get_variable('b', [num_classes], initializer=tf.zeros_initializer())
    return tf.nn.bias_add(tf.matmul(x, weights), bias, name='linear/output')


def residual_in_one_pass(x, convolutions, shortcut, style):
    """A block's ``convolutions`` and ``shortcut``, arguments of ``conv_bn`` after ``x``, as ``layers.products`` has
    them, the shortcut's None where there is none. ``x`` and the result: what ``layers.products.residual`` takes."""
    def make(inputs, name, channels, kernel, stride=1, initial_gamma=1.0):
        with tf.variable_scope(name):
            return layers.products.product(_weights(inputs, channels, kernel), stride, style,
                                           dict(name='bn', initial_gamma=initial_gamma), _around(kernel, stride, style))
    inputs, made = channels_of(x[1], style), []
    for each in convolutions:
        made.append(make(inputs if not made else made[-1].channels, **each))
    return layers.products.residual(x, made, shortcut and make(inputs, **shortcut), style)


def bottleneck(x, width, stride, style, inner_width, group, one_pass=False):
    """Bottleneck block (He et al. 2015, Figure 5 right) in the current scope: 1x1, 3x3 with the stride, 1x1.

    ``x`` and the result are pairs of equal tensors: one for the convolutions, one for the shortcut; with ``one_pass``,
    which has no groups, those of ``residual_in_one_pass``.
    """
    first = dict(name='conv1', channels=inner_width, kernel=1)
    second = dict(name='conv2', channels=inner_width, kernel=3, stride=stride)
    # 1H Sec 5.1: the block's last gamma starts at 0, so that each block starts as an identity.
    last = dict(name='conv3', channels=width * 4, kernel=1, initial_gamma=0.0)
    projection = None
    if channels_of(x[1], style) != width * 4:
        projection = dict(name='convshortcut', channels=width * 4, kernel=1, stride=stride)
    if one_pass:
        return residual_in_one_pass(x, [first, second, last], projection, style)
    x, same = x
    y = conv_bn(x, style=style, act=True, **first)
    y = conv_bn(y, style=style, act=True, group=group, **second)
    return conv_bn(y, style=style, **last, shortcut=lambda: (
        conv_bn(same, style=style, **projection) if projection else same))


def non_local(x, style, embed, softmax):
    """Non-local means over all pairs of positions (FD Sec 4.1, with the embedded Gaussian or the dot product).

    Args:
        x (tf.Tensor): [N,H,W,C] or [N,C,H,W], H, W and C static.
        embed (bool): affinities of two 1x1 convolutions of ``x`` with C/2 channels, else of ``x`` itself.
        softmax (bool): Gaussian form, scaled by the square root of the embedding's channels and normalised by a
            softmax over the positions summed over; else dot products, divided by H * W.
    Returns:
        tf.Tensor like ``x``.
    """
    channels = channels_of(x, style)
    theta = phi = x
    if embed:
        normal = tf.random_normal_initializer(stddev=0.01)
        theta = conv2d(x, 'embedding_theta', channels // 2, 1, style, initializer=normal)
        phi = conv2d(x, 'embedding_phi', channels // 2, 1, style, initializer=normal)
    height, width = (int(x.shape[axis]) for axis in style.spatial_axes)
    positions = height * width
    channels_last = style.data_format == 'NHWC'

    def flat(t):  # [N, P, C] or [N, C, P]
        depth = channels_of(t, style)
        return tf.reshape(t, [-1, positions, depth] if channels_last else [-1, depth, positions])

    scale = float(channels_of(theta, style)) ** 0.5
    theta, phi, value = flat(theta), flat(phi), flat(x)
    if softmax or channels > positions:
        affinity = tf.matmul(theta, phi, transpose_a=not channels_last, transpose_b=channels_last)  # [N, P, P]
        if softmax:
            affinity = tf.cast(tf.nn.softmax(tf.cast(affinity, tf.float32) / scale), value.dtype)
        out = (tf.matmul(affinity, value) if channels_last else tf.matmul(value, affinity, transpose_b=True))
    else:
        # The same sum in the order that never holds P x P numbers (FD code); equal up to rounding.
        mixing = tf.matmul(phi, value, transpose_a=channels_last, transpose_b=not channels_last)  # [N, C, C]
        out = (tf.matmul(theta, mixing) if channels_last else tf.matmul(mixing, theta, transpose_a=True))
    if not softmax:
        out = out / float(positions)
    return tf.reshape(out, tf.shape(x))


def denoising(x, name, style, embed, softmax):
    """Denoising block (FD Sec 4, Figure 4): x + BN(1x1 convolution of non-local means of x), no activation after."""
    with tf.variable_scope(name):
        y = non_local(x, style, embed, softmax)
        # FD Sec 4: gamma starts at 0, the block as an identity.
        y = conv_bn(y, 'conv', channels_of(x, style), 1, style, initial_gamma=0.0)
        y = y + x
        y.set_shape(x.shape)
        return y


def imagenet_resnet(image, depth, num_classes, style, res2_bottleneck=64, group=1, denoise=None):
    """ResNet or ResNeXt for ImageNet (He et al. 2015, Table 1; Xie et al. 2017, Table 1).

    Args:
        image (tf.Tensor): float [N,S,S,3] or [N,3,S,S] in [-1, 1], BGR for the released checkpoints.
        depth (int): 50, 101 or 152.
        res2_bottleneck (int), group (int): channels for each group in the first stage's 3x3 convolutions, and the
            number of groups; 64 and 1 is ResNet, 4 and 32 is ResNeXt "32x4d".
        denoise (str): None, 'groups' (a block with embedding and softmax after each of the four groups: FD's
            ResNet-Denoise) or 'blocks' (a dot-product block after every residual block: FD's ResNeXt-DenoiseAll).
    Returns:
        tf.Tensor: logits [N, num_classes].
    """
    x = conv_bn(image, 'conv0', 64, 7, style, stride=2, act=True)
    x = max_pool(x, 3, 2, style, around=1 if style.padding == 'symmetric' else None)
    x, one_pass = (x, x), False
    for g, (blocks, width) in enumerate(zip(IMAGENET_BLOCKS[depth], (64, 128, 256, 512))):
        inner_width, stride = width * (res2_bottleneck * group // 64), 2 if g > 0 else 1
        if not one_pass and group == 1 and denoise is None and layers.products.usable(x[0], stride, style):
            x, one_pass = 2 * x[:1], True
        with tf.variable_scope('group{}'.format(g)):
            for b in range(blocks):
                with tf.variable_scope('block{}'.format(b)):
                    x = layers.block(functools.partial(
                        bottleneck, width=width, stride=stride if b == 0 else 1, style=style,
                        inner_width=inner_width, group=group, one_pass=one_pass), x, style)
                    if denoise == 'blocks':
                        x = 2 * (denoising(x[0], 'non_local', style, embed=False, softmax=False),)
        if denoise == 'groups':
            x = 2 * (denoising(x[0], 'group{}_denoise'.format(g), style, embed=True, softmax=True),)
    return classifier(layers.products.leave(x, style) if one_pass else x[0], num_classes, style)


def basic_block(x, width, stride, style, projection):
    """Two 3x3 convolutions (He et al. 2015, Figure 5 left) in the current scope.

    Where the shape changes the shortcut is a 1x1 convolution (``projection``) or, without parameters, every
    ``stride``-th position with zero channels added ("option A" of He et al. 2015, Sec 3.3). ``x`` and the result are
    pairs, as ``bottleneck``'s.
    """
    x, same = x
    missing = width - channels_of(x, style)

    def shortcut():
        if not missing and stride == 1:
            return same
        if projection:
            return conv_bn(same, 'convshortcut', width, 1, style, stride=stride)
        every = slice(None, None, stride)
        fewer = same[:, every, every, :] if style.data_format == 'NHWC' else same[:, :, every, every]
        return tf.pad(fewer, style.per_axis([0, 0], [0, 0], [missing // 2, missing - missing // 2]))
    y = conv_bn(x, 'conv1', width, 3, style, stride=stride, act=True)
    return conv_bn(y, 'conv2', width, 3, style, shortcut=shortcut)


def cifar_resnet(image, depth, num_classes, style):
    """ResNet for 32x32 images (He et al. 2015, Sec 4.2); depth 18 is the usual wide one of robustness papers.

    Args:
        image (tf.Tensor): float [N,S,S,3] or [N,3,S,S] in [-1, 1].
        depth (int): 8, 20, 32, 56 or 18.
    Returns:
        tf.Tensor: logits [N, num_classes].
    """
    wide = depth == CIFAR_WIDE_DEPTH
    groups = [(2, 64), (2, 128), (2, 256), (2, 512)] if wide else [(CIFAR_BLOCKS[depth], w) for w in (16, 32, 64)]
    x = conv_bn(image, 'conv0', groups[0][1], 3, style, act=True)
    x = x, x
    for g, (blocks, width) in enumerate(groups):
        for b in range(blocks):
            with tf.variable_scope('group{}/block{}'.format(g, b)):
                x = layers.block(functools.partial(
                    basic_block, width=width, stride=2 if b == 0 and g > 0 else 1, style=style, projection=wide), x,
                    style)
    return classifier(x[0], num_classes, style)
