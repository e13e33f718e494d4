"""The loss scale of updates in float16: without it small gradients are 0 there, with too large a one some are infinite.

It follows the run (Micikevicius et al. 2018, Sec 3.2; NVIDIA's guide to mixed precision and PyTorch's GradScaler, whose
numbers these are): a step with a gradient that is not finite is left out and the scale halved; after many steps without
one it is doubled. It is a power of two, so that it changes no digit of a gradient that float16 can hold.
"""
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.optimizer import ProxyOptimizer

INITIAL = 2.0 ** 15  # NVIDIA's guide
GOOD_STEPS = 2000  # in a row, then it is doubled; NVIDIA's guide, and PyTorch's growth_interval
LARGEST = 2.0 ** 24  # Apex
SMALLEST = 2.0 ** -14  # below which a run has no hope, as in fairseq, whose limit is 1e-4

SCOPE = 'loss_scale'  # of its variables, which checkpoints of training keep
SKIPPED = 'step_is_skipped'  # collection of graphs


def scale_gradient(x, factor):
    """``x``, whose gradient is that of the result times ``factor`` (float or tf.Tensor)."""
    return tf.custom_gradient(lambda x: (tf.identity(x), lambda dy: dy * factor))(x)


def step_is_skipped():
    """tf.Tensor: bool, whether the running step of the current graph is left out; always False without a scale."""
    found = tf.get_collection(SKIPPED)
    return found[0] if found else tf.constant(False)


class LossScale:
    """The variables of the current graph's loss scale; all instances share them.

    Attributes:
        scale (tf.Variable): float32, that of the next step. good (tf.Variable): int64, steps in a row that were not
        skipped, since it was last changed. skipped (tf.Variable): int64, steps of the run that were.
    """

    def __init__(self):
        with tf.variable_scope(SCOPE, reuse=tf.AUTO_REUSE):
            self.scale = tf.get_variable('scale', initializer=INITIAL, trainable=False)
            self.good, self.skipped = (
                tf.get_variable(name, [], tf.int64, tf.zeros_initializer(), trainable=False)
                for name in ('good_steps', 'skipped_steps'))

    def enlarge(self, part):
        """``part`` (scalar) of what is minimised, whose gradients are those of it times the scale."""
        return scale_gradient(part, self.scale.read_value())

    def follow(self, finite):
        """The op that takes in whether the gradients of a step were all finite (bool)."""
        good = tf.where(finite, self.good + 1, tf.zeros_like(self.good))
        full = good >= GOOD_STEPS
        scale = tf.where(finite, tf.where(full, tf.minimum(2 * self.scale, LARGEST), tf.identity(self.scale)),
                         self.scale / 2)
        with tf.control_dependencies([good, scale]):
            return tf.group(self.scale.assign(scale), self.good.assign(tf.where(full, tf.zeros_like(good), good)),
                            self.skipped.assign_add(tf.cast(~finite, tf.int64)))


class ScaledOptimizer(ProxyOptimizer):
    """``optimizer``, given gradients that are ``LossScale.scale`` times too large; it takes no step where one is not
    finite.

    Of several ranks' gradients it wants what these have exchanged: then all take the same steps.
    """

    def __init__(self, optimizer):
        super().__init__(optimizer, 'ScaledOptimizer')
        self._scale = LossScale()

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """As of ``tf.train.Optimizer``."""
        pairs = list(grads_and_vars)
        finite = tf.reduce_all([tf.reduce_all(tf.is_finite(gradient)) for gradient, _ in pairs])
        tf.add_to_collection(SKIPPED, ~finite)
        factor = 1 / self._scale.scale.read_value()

        def apply():
            with tf.name_scope(None):  # the optimizer's own variables have the names that they have elsewhere
                return self._opt.apply_gradients([(gradient * factor, v) for gradient, v in pairs], global_step)
        step = tf.cond(finite, apply, tf.no_op)
        with tf.control_dependencies([step, factor]):
            return tf.group(step, self._scale.follow(finite), name=name)
