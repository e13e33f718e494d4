"""The optimizers that ``--optimizer`` names."""
import tensorflow.compat.v1 as tf

# SAT and FD releases.
MOMENTUM = 0.9
INITIAL_LEARNING_RATE = 0.1
# SAT's EfficientNet release.
RMSPROP_DECAY = 0.9
RMSPROP_EPSILON = 1e-3
OPTIMIZERS = ('momentum', 'rmsprop')


def make_optimizer(name):
    """The optimizer ``name``, one of ``OPTIMIZERS``, on the variable `learning_rate`, which the schedule sets.

    'momentum' is Nesterov's with 0.9 (1H Sec 5.1); 'rmsprop' the EN release's.
    """
    learning_rate = tf.get_variable('learning_rate', initializer=INITIAL_LEARNING_RATE, trainable=False)
    tf.summary.scalar('learning_rate-summary', learning_rate)
    if name == 'rmsprop':
        return tf.train.RMSPropOptimizer(learning_rate, RMSPROP_DECAY, MOMENTUM, RMSPROP_EPSILON)
    return tf.train.MomentumOptimizer(learning_rate, MOMENTUM, use_nesterov=True)
