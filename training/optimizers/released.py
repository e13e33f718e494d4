"""The optimizers of the releases."""
import tensorflow.compat.v1 as tf

MOMENTUM = 0.9  # all three releases
# SAT's EfficientNet release.
RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1e-3


def momentum(learning_rate, settings):
    """Nesterov's (1H Sec 5.1; SAT and FD releases)."""
    return tf.train.MomentumOptimizer(learning_rate, MOMENTUM, use_nesterov=True)


def rmsprop(learning_rate, settings):
    """The EN release's."""
    return tf.train.RMSPropOptimizer(learning_rate, RMSPROP_DECAY, MOMENTUM, RMSPROP_EPSILON)
