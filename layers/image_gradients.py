"""The gradient of an image through a strided convolution, in NHWC, as a convolution without a stride.

Pixels whose places differ by a multiple of the stride meet the same weights; each such phase has output channels of its
own here. So few input channels as an image has leave most of a vector unit unused; phase by phase they are more: less
than half the time of oneDNN's own for the first layer of a ResNet.
"""
import tensorflow.compat.v1 as tf


def split(weights, stride):
    """[k, k, in, out] -> [K, K, out, stride * stride * in] with K = k / stride, rounded up: for ``by_phases``."""
    kernel, _, channels_in, channels = weights.shape.as_list()
    steps = -(-kernel // stride)
    missing = [0, steps * stride - kernel]
    weights = tf.reshape(tf.pad(weights, [missing, missing, [0, 0], [0, 0]]),
                         [steps, stride, steps, stride, channels_in, channels])
    return tf.reshape(tf.transpose(weights[::-1, :, ::-1], [0, 2, 5, 1, 3, 4]),
                      [steps, steps, channels, stride * stride * channels_in])


def by_phases(dy, phases, kernel, stride, around, size):
    """The gradient of the convolution's input.

    Args:
        dy (tf.Tensor): [N, H, W, out], that of its result. phases (tf.Tensor): the weights, by ``split``.
        kernel, stride (int): of the convolution. around (int): zeros at each side of the input; None: SAME padding.
        size ([int, int]): of the input.
    Returns:
        tf.Tensor: [N, *size, in].
    """
    steps = -(-kernel // stride)
    before = [_same_padding(side, kernel, stride) if around is None else around for side in size]
    # The first and the last step of a phase that has a pixel in it; the zeros before have places too.
    first = [zeros // stride for zeros in before]
    last = [(zeros + side - 1) // stride for zeros, side in zip(before, size)]
    padding = [[steps - 1 - low, high - int(count) + 1] for low, high, count in zip(first, last, dy.shape[1:3])]
    dx = tf.depth_to_space(tf.nn.conv2d(dy, phases, 1, [[0, 0], *padding, [0, 0]]), stride)
    top, left = (zeros - low * stride for zeros, low in zip(before, first))
    return dx[:, top:top + size[0], left:left + size[1]]


def _same_padding(side, kernel, stride):
    """Zeros before a side."""
    return max(0, (-(-side // stride) - 1) * stride + kernel - side) // 2
