"""Moving averages of a network's weights (EN release), kept beside the weights and saved with them."""
import contextlib

import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback

from training.step.loss_scale import step_is_skipped
from weights.match import load_into, network_variables


class AverageWeights(Callback):
    """After each step n, counted from 1, moves the average of every variable of the network towards the variable.

    Not after one that a loss scale has skipped: there is nothing new.

    The averages are the variables ``<name>/ExponentialMovingAverage`` of the released checkpoints, those of batch
    norm's own averages included.

    Args:
        decay (float): in (0, 1). ramp (bool): take min(``decay``, (1 + n) / (10 + n)) (EN release), so that young
            averages are not held back by the first weights.
    """
    _chief_only = False

    def __init__(self, decay, ramp=True):
        self.decay, self.ramp = decay, ramp

    def _setup_graph(self):
        self._variables = network_variables(tf.global_variables())
        self._step = tf.placeholder(tf.int64, [], name='averaged_step')
        average = tf.train.ExponentialMovingAverage(self.decay, num_updates=self._step if self.ramp else None)
        self._update = average.apply(self._variables)
        self._skipped = step_is_skipped()
        self._take = tf.group(*[v.assign(average.average(v)) for v in self._variables])

    _nothing_new = False

    def _before_run(self, _):
        return tf.train.SessionRunArgs(self._skipped)

    def _after_run(self, _, run):
        self._nothing_new = run.results

    def _trigger_step(self):
        if self._nothing_new:
            return
        # Not with the step itself, whose order of reading and writing a variable is not said.
        self.trainer.sess.run(self._update, {self._step: self.global_step})

    @contextlib.contextmanager
    def in_place(self):
        """Inside, the network has the averages for weights."""
        session = self.trainer.sess
        weights = session.run(self._variables)
        session.run(self._take)
        try:
            yield
        finally:
            load_into(session, zip(self._variables, weights))
