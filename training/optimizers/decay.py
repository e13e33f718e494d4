"""Weight decay: as a part of the loss, or beside the optimizer's step."""
import dataclasses
import re

import tensorflow.compat.v1 as tf
from tensorpack.models import regularize_cost
from tensorpack.tfutils.optimizer import ProxyOptimizer

COUPLED = 'l2_regularize_loss'  # the part of the loss, in logs


def half_squares(factor, decayed):
    """``factor`` times half the sum of the squares of the trainable variables whose names ``decayed`` (str), a regular
    expression, finds."""
    return regularize_cost(decayed, lambda weights: factor * tf.nn.l2_loss(weights), name=COUPLED)


@tf.custom_gradient
def with_coupled(loss, decay):
    """``loss + decay``, scalars, with the gradient of ``loss`` alone: the decay's is ``CoupledDecay``'s."""
    def gradient(dy):
        with tf.control_dependencies([decay]):  # of the weights before their step
            return tf.identity(dy), None
    return loss + decay, gradient


@dataclasses.dataclass(frozen=True)
class Decay:
    """Weight decay as a part of a loss: ``factor`` (float) times half the squares of the variables whose names
    ``decayed`` (str), a regular expression, finds."""
    factor: float
    decayed: str

    def of(self, variable):
        """float: its gradient as a multiple of the variable, 0 for one that does not decay."""
        return self.factor if re.search(self.decayed, variable.op.name) else 0.0


class CoupledDecay(ProxyOptimizer):
    """``optimizer`` of a loss that has weight decay (Decay) in it, for gradients of the rest of that loss.

    The decay's are made one by one when the step is taken. As part of the loss they would all be there at its start,
    as much memory as the weights.
    """

    def __init__(self, optimizer, decay):
        super().__init__(optimizer, 'CoupledDecay')
        self._decay = decay

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """As of ``tf.train.Optimizer``."""
        return self._opt.apply_gradients(
            [(with_decay(gradient, v, self._decay.of(v)), v) for gradient, v in grads_and_vars], global_step, name)


def with_decay(gradient, variable, factor):
    """``gradient`` plus ``factor`` times the variable."""
    if not factor:
        return gradient
    with tf.control_dependencies([gradient]):
        return gradient + factor * variable.read_value()


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
