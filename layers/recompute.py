"""Blocks of a network that keep only their input for the backward pass."""
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.collection import freeze_collection

from smooth_activations import backward_slope, current_slope


def block(function, x, style):
    """``function(x)``, one block of a network; with ``style.recompute`` nothing inside it stays in memory.

    ``x`` and the result may be structures of tensors.

    The function may make variables in the current variable scope and update ops, and must give the same result when it
    is called again: its random numbers must be stateless. Recomputing costs one more forward pass (Chen et al. 2016).
    """
    return _recomputed(function, x, style) if style.recompute else function(x)


def projection(function, x, style):
    """``function(x)`` of (input, weights), the product of an activation and weights, which keeps the input but not the
    activation for the backward pass: that is computed a second time there, the product is not, as no gradient reads it.

    It may make variables as ``block``'s function may. A network that stands still keeps none of it anyway.
    """
    inside = style.recompute or style.frozen is not None  # a block that is recomputed has it for one block at a time
    return function(x) if inside else _recomputed(function, x, style)


def _recomputed(function, x, style):
    scope, slope = tf.get_variable_scope(), current_slope()
    result = []

    def call(tensors):
        result[:] = [function(tf.nest.pack_sequence_as(x, tensors))]
        return tf.nest.flatten(result)

    @tf.custom_gradient
    def op(*tensors):
        def gradient(*dy, variables=()):
            # Reads nothing before dy is there; else all blocks would be recomputed at once, right after the first pass.
            with tf.control_dependencies(dy), freeze_collection([tf.GraphKeys.UPDATE_OPS]), \
                    tf.variable_scope(scope, reuse=True), backward_slope(slope):
                again = [tf.identity(v) for v in tensors]
                if style.frozen is not None:
                    return tf.gradients(call(again), again, dy), [None] * len(variables)
                # Variables also reach x by way of the attack that made the image; that is not this block's business.
                found = tf.gradients(call(again), again + list(variables), dy, stop_gradients=again)
            return (found[:len(again)], found[len(again):]) if variables else found
        return call(tensors), gradient
    return tf.nest.pack_sequence_as(result, op(*tf.nest.flatten(x)))[0]
