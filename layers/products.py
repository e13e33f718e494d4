"""Residual blocks of a network that stands still, for CPUs: each convolution with what is around it in one pass.

Forward a convolution adds its bias and the shortcut, and applies the activation; backward its gradient adds that of the
shortcut, and that of the activation before it comes out. Weights are folded, rounded and put in order once an attack.
"""
import dataclasses
from typing import Optional

import tensorflow.compat.v1 as tf

from layers.normalisation import norm_as_affine
from layers.style import channels_of
from native import smooth_ops
from smooth_activations import compiled_arguments, compiled_ops

# Positions along a side of what is fastest as products: of few positions weights weigh most, which oneDNN puts in order
# in each pass (docs/performance.md).
LARGEST_SIDE = 14


def usable(x, stride, style):
    """Whether ``residual`` may be used on ``x``, a block's input, and what comes of it, and is the fastest on this
    processor; ``stride``: of that block, behind which sizes and channels do not grow odd or larger."""
    return (style.frozen is not None and x.dtype == tf.bfloat16 and style.data_format == 'NHWC' and not style.recompute
            and x.shape[1:].is_fully_defined() and -(-max(x.shape.as_list()[1:3]) // stride) <= LARGEST_SIDE
            and channels_of(x, style) % 2 == 0
            and compiled_arguments(style.activation) is not None and compiled_ops(x) is not None
            and smooth_ops.has_fast_products())


@dataclasses.dataclass(frozen=True)
class Product:
    """A convolution with folded batch norm. ``around``: see ``layers.conv2d``."""
    ops: object
    kernel: int
    stride: int
    around: Optional[int]
    weights: tf.Tensor
    turned_weights: tf.Tensor
    bias: tf.Tensor

    def __call__(self, x, more, activation=None):
        """(z, its activation), or z alone without one; ``more``: [] or [a tensor like z] that is added."""
        z, y = self.ops.smooth_convolution(x=x, weights=self.weights, bias=self.bias, more=more,
                                           A=int(bool(activation)), **self._place(x), **(activation or {}))
        return (z, *y) if activation else z

    def gradient(self, dz, x, more, activation=None):
        """Of its input, of the shape of ``x``, or with ``activation``, of ``x`` of which the input is the activation;
        ``more``: [] or [the gradient of the input's other use]."""
        return self.ops.smooth_convolution_grad(dz=dz, weights=self.turned_weights, x=x, more=more,
                                                of_activation=bool(activation), **self._place(x), **(activation or {}))

    @property
    def channels(self):
        return int(self.bias.shape[0])

    def _place(self, x):
        before = [self.around if self.around is not None else
                  max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0) // 2  # SAME padding
                  for size in x.shape.as_list()[1:3]]
        return dict(kernel=self.kernel, stride=self.stride, before=before)


def product(weights, stride, style, norm, around=None):
    """The convolution by ``weights``, a variable [k, k, in, channels], both even, with the batch norm ``norm`` of
    ``layers.convolution``."""
    ops = smooth_ops.load_op_library()
    kernel, channels = int(weights.shape[0]), int(weights.shape[3])

    def pack():
        scale, offset = norm_as_affine(channels, style, **norm)
        return [*ops.smooth_packed_weights(weights=weights, scale=scale), offset]
    return Product(ops, kernel, stride, around, *style.frozen.once(weights.name + '/packed', pack))


def residual(x, products, shortcut, style):
    """The activation of a chain of convolutions, with activations between them, plus the shortcut.

    Args:
        x (tf.Tensor, tf.Tensor): (z, y): y is the block's input and the activation of z, or both are the same tensor.
        products (list of Product), shortcut (Product): None for the input itself.
    Returns:
        (tf.Tensor, tf.Tensor): in turn. Gradients flow through z only: ``leave`` says the last one's.
    """
    value, slope = compiled_arguments(style.activation)
    inputs = x[:1] if x[0] is x[1] else x

    @tf.custom_gradient
    def op(*inputs):
        kept, y = [], inputs[-1]
        for each in products[:-1]:
            z, y = each(y, [], value)
            kept.append(z)
        results = products[-1](y, [inputs[-1] if shortcut is None else shortcut(inputs[-1], [])], value)

        def gradient(dz, _):
            d = dz
            for each, z in zip(products[:0:-1], kept[::-1]):
                d = each.gradient(d, z, [], slope)
            more = dz if shortcut is None else shortcut.gradient(dz, inputs[0], [])
            dx = products[0].gradient(d, inputs[0], [more], slope if len(inputs) == 2 else None)
            return [dx] + [None] * (len(inputs) - 1)
        return results, gradient
    return op(*inputs)


def leave(x, style):
    """The activation y of (z, y), for any use; its gradient goes to z."""
    _, slope = compiled_arguments(style.activation)
    ops = compiled_ops(x[0])

    @tf.custom_gradient
    def op(z, y):
        return tf.identity(y), lambda dy: (ops.smooth_activation_grad(dy=[dy], x=z, **slope), None)
    return op(*x)
