"""The optimizers of the releases."""
import tensorflow.compat.v1 as tf

from smooth_activations import compiled_ops
from training.optimizers.decay import with_decay

MOMENTUM = 0.9  # all three releases
# SAT's EfficientNet release.
RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1e-3


class Momentum(tf.train.MomentumOptimizer):
    """Nesterov's momentum, and weight decay (Decay) with it: on a CPU in one pass over a weight and what belongs to
    it."""

    def __init__(self, learning_rate, decay):
        super().__init__(learning_rate, MOMENTUM, use_nesterov=True)
        self._decay = decay

    def _resource_apply_dense(self, grad, var):
        factor, compiled = self._decay.of(var), compiled_ops(grad)
        if compiled is None or var.dtype.base_dtype != tf.float32:
            return super()._resource_apply_dense(with_decay(grad, var, factor), var)
        return compiled.smooth_momentum(
            var=var.handle, accum=self.get_slot(var, 'momentum').handle, grad=grad, rate=self._learning_rate_tensor,
            momentum=MOMENTUM, decay=factor)


def momentum(learning_rate, settings, decay):
    """Nesterov's (1H Sec 5.1; SAT and FD releases)."""
    return Momentum(learning_rate, decay)


def rmsprop(learning_rate, settings):
    """The EN release's."""
    return tf.train.RMSPropOptimizer(learning_rate, RMSPROP_DECAY, MOMENTUM, RMSPROP_EPSILON)
