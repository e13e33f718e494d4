"""Convolutions by 3 x 3 weights in 4 of each 9 multiplications (Lavin and Gray 2016), in float32 on a CPU.

They are for attacks, whose weights are put in order once, and for training. A network that judges does without, so
that its logits are the same in all of an evaluation.
"""
import tensorflow.compat.v1 as tf

from native import smooth_ops
from smooth_activations import compiled_ops

FEWEST_CHANNELS = 64  # with fewer, passes over memory outweigh what the products save (docs/performance.md)
_MULTIPLE = 16  # of channels, of the compiled op


def usable(x, weights, stride, style):
    """Whether ``conv2d`` may take the place of a convolution of this ``stride``, and is faster on this processor."""
    shape = weights.shape.as_list()
    return (x.dtype == tf.float32 and style.data_format == 'NHWC' and (style.training or style.frozen is not None)
            and stride == 1 and shape[:2] == [3, 3] and shape[2] == int(x.shape[3])  # no groups
            and all(each >= FEWEST_CHANNELS and each % _MULTIPLE == 0 for each in shape[2:])
            and compiled_ops(x) is not None and smooth_ops.has_fast_winograd())


def conv2d(x, weights, style):
    """The convolution of ``x`` [N,H,W,I] by ``weights`` [3,3,I,O] with one zero at each side: [N,H,W,O]."""
    compiled = compiled_ops(x)
    depth, channels = weights.shape[2:].as_list()

    def forward(weights):
        return compiled.smooth_winograd_weights(weights=weights)

    def backward(weights):
        return forward(tf.transpose(tf.reverse(weights, [0, 1]), [0, 1, 3, 2]))

    def convolve(x, packed, channels):
        return compiled.smooth_winograd(x=x, weights=packed, channels=channels)
    if style.frozen is not None:
        packed = style.frozen.once(weights.name + '/winograd', lambda: (forward(weights), backward(weights)))
        return tf.custom_gradient(lambda x: (convolve(x, packed[0], channels),
                                             lambda dy: convolve(dy, packed[1], depth)))(x)

    def op(x, weights):
        def gradient(dy):
            with tf.control_dependencies([dy]):  # not all layers' before the first needs its own
                packed = backward(tf.identity(weights))
            return (convolve(dy, packed, depth),
                    tf.nn.conv2d_backprop_filter(x, weights.shape, dy, [1, 1, 1, 1], 'SAME'))
        return convolve(x, forward(weights), channels), gradient
    return tf.custom_gradient(op)(x, tf.identity(weights))
