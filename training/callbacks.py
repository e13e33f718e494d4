"""What happens in every step and epoch of a training beside the step itself."""
import json
import math

import tensorflow.compat.v1 as tf
from tensorpack.callbacks import (
    Callback,
    HyperParamSetter,
    JSONWriter,
)

from adv_model import TRAINING_STEP
from files.atomic import write_text


class LearningRate(HyperParamSetter):
    """Sets `learning_rate` before each step from the global step alone, so that a resumed run goes on as it was."""
    _chief_only = False

    def __init__(self, rate_at):
        super().__init__('learning_rate')
        self.rate_at = rate_at

    def _get_value_to_set(self):
        return self.rate_at(self.global_step)

    def _trigger(self):
        """Nothing at the end of an epoch: the last step has set the next one's rate."""

    def _trigger_step(self):
        self._set_param()


class FeedTrainingStep(Callback):
    """Tells the training attacker the number of the step that starts."""
    _chief_only = False

    def _setup_graph(self):
        self._placeholder = self.get_tensors_maybe_in_tower([TRAINING_STEP + ':0'])[0]

    def _before_run(self, _):
        return tf.train.SessionRunArgs([], feed_dict={self._placeholder: self.global_step})


class Statistics(JSONWriter):
    """stats.json, written whole or not at all; tensorpack's own would log a traceback and go on."""

    def _trigger_epoch(self):
        known = self._stats and self._stats[-1]['epoch_num'] == self.epoch_num
        if not self._stat_now and not known:
            # All steps of this epoch were before the run was resumed. Without an entry the epoch would not be over.
            self._stat_now['epoch_num'] = self.epoch_num
        super()._trigger_epoch()

    def _write_stat(self):
        # JSON has no NaN and no infinity.
        write_text(self._fname, json.dumps([
            {name: None if isinstance(value, float) and not math.isfinite(value) else value
             for name, value in entry.items()} for entry in self._stats]))


class RestOfEpoch(Callback):
    """Makes the first epoch of a run that is continued in mid-epoch the rest of that epoch, possibly without a step."""
    _chief_only = False

    def __init__(self, steps_per_epoch, start):
        self.steps_per_epoch = steps_per_epoch
        self.done = start.step - (start.epoch - 1) * steps_per_epoch

    def _before_epoch(self):
        self.trainer.loop.steps_per_epoch = self.steps_per_epoch - self.done
        self.done = 0
