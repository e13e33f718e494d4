"""Weight decay: as a part of the loss, or beside the optimizer's step."""
import re

import tensorflow.compat.v1 as tf
from tensorpack.models import regularize_cost
from tensorpack.tfutils.optimizer import ProxyOptimizer

COUPLED = 'l2_regularize_loss'  # the part of the loss, in logs


def half_squares(factor, decayed):
    """``factor`` times half the sum of the squares of the trainable variables whose names ``decayed`` (str), a regular
    expression, finds."""
    return regularize_cost(decayed, lambda weights: factor * tf.nn.l2_loss(weights), name=COUPLED)


class DecoupledDecay(ProxyOptimizer):
    """``optimizer``, with every step of which the weights also lose a part of what they were before it.

    That is weight decay as in AdamW (Loshchilov and Hutter 2019, Algorithm 2): the optimizer's moments know nothing of
    it, and it follows the learning rate.

    Args:
        part (tf.Tensor): the part, learning rate times weight decay.
        decayed (str): regular expression of the decayed variables' names.
    """

    def __init__(self, optimizer, part, decayed):
        super().__init__(optimizer, 'DecoupledDecay')
        self._part, self._decayed = part, decayed

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """As of ``tf.train.Optimizer``."""
        pairs = list(grads_and_vars)
        # When nothing reads the weights any more that the gradients are of.
        with tf.control_dependencies([gradient for gradient, _ in pairs]):
            lost = [v.assign_sub(self._part * v) for _, v in pairs if re.search(self._decayed, v.op.name)]
        with tf.control_dependencies(lost):
            return self._opt.apply_gradients(pairs, global_step, name)
