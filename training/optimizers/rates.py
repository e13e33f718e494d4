"""Two optimizers of one kind, for weights that are trained at different rates."""
import re

import tensorflow.compat.v1 as tf
from tensorpack.tfutils.optimizer import ProxyOptimizer


class TwoRates(ProxyOptimizer):
    """``usual``, and ``other`` for the variables whose whole names the regular expression ``others`` (str) matches.

    Args:
        usual, other (tf.train.Optimizer): of the same kind, so that a variable's slots have the same names with both.
    """

    def __init__(self, usual, other, others):
        super().__init__(usual, 'TwoRates')
        self._other, self._others = other, others

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """As of ``tf.train.Optimizer``."""
        pairs = list(grads_and_vars)
        parts = [], []
        for gradient, v in pairs:
            parts[re.fullmatch(self._others, v.op.name) is not None].append((gradient, v))
        # When nothing reads the weights any more that the gradients are of.
        with tf.control_dependencies([gradient for gradient, _ in pairs]):
            steps = [optimizer.apply_gradients(part) for optimizer, part in zip((self._opt, self._other), parts)
                     if part]
        if global_step is not None:
            with tf.control_dependencies(steps):
                steps = [tf.assign_add(global_step, 1)]
        return tf.group(*steps, name=name)
