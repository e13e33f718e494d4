"""What happens in every step and epoch of a training beside the step itself."""
import json
import math
import os

import tensorflow.compat.v1 as tf
from tensorpack.callbacks import (
    Callback,
    HyperParamSetter,
    JSONWriter,
)
from tensorpack.utils import logger

from adv_model import TRAINING_STEP
from files.atomic import write_text
from files.json_files import read_json
from files.typed import record, whole
from machine.memory import give_back
from ranks.end import fail
from ranks.gather import gather_rows
from ranks.terminal import bar
from training.step.loss_scale import SMALLEST, LossScale
from weights.find import name_latest

TRAINING_ERROR = 'train-error-top1-of-epoch'  # a scalar of each epoch; see ``TrainingAccuracy``
COUNTED_FILE = 'epoch-so-far.json'  # likewise, of an epoch in which a run was stopped
_COUNTED = record(dict.fromkeys(['epoch', 'global_step', 'wrong', 'images'], whole(0, 2 ** 62)))

LOSS_SCALE, SKIPPED_STEPS = 'loss_scale', 'skipped-steps'  # likewise; see ``WatchLossScale``


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


class GiveBackMemory(Callback):
    """Hands back, before each of the first steps, what preparing TensorFlow's graph for it has left with the C library:
    the steps' tensors come from another allocator, which would put them beside it (docs/performance.md, "Memory")."""
    _chief_only = False
    _PREPARED = 3  # steps

    def __init__(self):
        self._begun = 0

    def _before_run(self, _):
        if self._begun < self._PREPARED:
            self._begun += 1
            give_back()


class Statistics(JSONWriter):
    """stats.json, written whole or not at all; tensorpack's own would log a traceback and go on."""

    def _trigger_epoch(self):
        known = self._stats and self._stats[-1]['epoch_num'] == self.epoch_num
        if not self._stat_now and not known:
            # All steps of this epoch were before the run was resumed. Without an entry the epoch would not be over.
            self._stat_now['epoch_num'] = self.epoch_num
        super()._trigger_epoch()

    def _write_stat(self):
        write_text(self._fname, _as_json(self._stats))

    def so_far(self):
        """The text of stats.json as it would be now, in the middle of what happens after an epoch."""
        return _as_json([*self._stats, dict(self._stat_now, epoch_num=self.epoch_num)])


def _as_json(entries):
    # JSON has no NaN and no infinity.
    return json.dumps([{name: None if isinstance(value, float) and not math.isfinite(value) else value
                        for name, value in entry.items()} for entry in entries])


class TrainingAccuracy(Callback):
    """Counts the training images that the network gets right as they enter its loss, after the training attack.

    Unlike `train-error-top1`, a running average over some 20 steps of the first rank, the scalar TRAINING_ERROR is of
    all images of an epoch and of all ranks, while the weights change: what follows it (``training.overfitting``) is
    not to depend on where a run was stopped. Of mixed images the largest label counts.

    Args:
        ranks (Ranks). batch (int): images of this rank in a step. folder (str): log directory.
    """
    _chief_only = False

    def __init__(self, ranks, batch, folder):
        self.ranks, self.batch, self.folder = ranks, batch, folder
        self._wrong = self._images = 0

    @property
    def so_far(self):
        """float: fraction of this rank's images of this epoch; None before the first."""
        return 1 - self._wrong / self._images if self._images else None

    def _setup_graph(self):
        self._error, = self.get_tensors_maybe_in_tower(['train-error-top1:0'])
        with tf.device('/cpu:0'):
            self._mine = tf.placeholder(tf.int64, [1, 2], name='wrong_and_all')
            self._all = gather_rows(self.ranks, self._mine, 'training_accuracy')

    def _before_epoch(self):
        # Of all ranks' images before the run was stopped in this epoch the first one counts on.
        kept = self._kept() if self.ranks.is_chief else {}
        here = (kept.get('epoch'), kept.get('global_step')) == (self.epoch_num, self.global_step)
        self._wrong, self._images = (kept['wrong'], kept['images']) if here else (0, 0)

    def _before_run(self, _):
        return tf.train.SessionRunArgs(self._error)

    def _after_run(self, _, run):
        if math.isfinite(run.results):
            self._wrong += round(float(run.results) * self.batch)
            self._images += self.batch

    def _trigger_epoch(self):
        wrong, images = self.counted()
        if images and self.ranks.is_chief:
            self.trainer.monitors.put_scalar(TRAINING_ERROR, wrong / images)

    def counted(self):
        """(wrong, all) of this epoch's images so far, int; to be asked for on all ranks."""
        return self.trainer.sess.run(self._all, {self._mine: [[self._wrong, self._images]]}).sum(axis=0).tolist()

    def keep(self, wrong, images):
        """Write what was ``counted`` for the run that goes on in this epoch after this step."""
        write_text(os.path.join(self.folder, COUNTED_FILE), json.dumps(
            {'epoch': self.epoch_num, 'global_step': self.global_step, 'wrong': wrong, 'images': images}) + '\n')

    def _kept(self):
        path = os.path.join(self.folder, COUNTED_FILE)
        try:
            return read_json(path, _COUNTED) if os.path.isfile(path) else {}
        except ValueError as error:
            logger.warning('{}: the training accuracy of this epoch is of its images from here on'.format(error))
            return {}


class WatchLossScale(Callback):
    """Notes the loss scale of an update in float16, and the steps of each epoch that were skipped (with --resume in
    mid-epoch, of those since), where there were some. Ends a run, in one line, in which no scale leaves the gradients
    finite.

    Args:
        ranks (Ranks), of which all see the same. folder (str): log directory.
    """
    _chief_only = False

    def __init__(self, ranks, folder):
        self.ranks, self.folder = ranks, folder

    def _setup_graph(self):
        state = LossScale()
        self._state = [state.scale.read_value(), state.skipped.read_value()]

    def _before_epoch(self):
        self._before = self.trainer.sess.run(self._state[1])

    def _trigger_step(self):
        # Not with the step itself, whose order of reading and writing a variable is not said.
        scale, skipped = self.trainer.sess.run(self._state)
        if scale < SMALLEST:
            fail('gradients in float16 are not finite at step {}, with a loss scale of {:g} and after {} skipped '
                 'steps; {}; --update-precision bfloat16 or float32, or a lower --base-lr, may help'.format(
                     self.global_step, 2 * scale, skipped, name_latest(self.folder)), self.ranks.rank)

    def _trigger_epoch(self):
        scale, skipped = self.trainer.sess.run(self._state)
        if self.ranks.is_chief:
            self.trainer.monitors.put_scalar(LOSS_SCALE, float(scale))
            if skipped > self._before:
                self.trainer.monitors.put_scalar(SKIPPED_STEPS, int(skipped - self._before))


class EpochBar(Callback):
    """A bar for the steps of an epoch, where somebody looks; see ``ranks.terminal.bar``.

    Args:
        accuracy (TrainingAccuracy): shown behind it. attacker (Attacker): of the training.
    """

    def __init__(self, accuracy, attacker):
        self._accuracy = accuracy
        self._name = 'under {}'.format(attacker.name) if attacker.parts else 'right'
        self._bar = None

    def _before_epoch(self):
        self._bar = bar(self.trainer.loop.steps_per_epoch, 'epoch {}/{}'.format(self.epoch_num, self.trainer.max_epoch))

    def _trigger_step(self):
        if self._accuracy.so_far is not None:
            self._bar.set_postfix_str('{} {:.1%}'.format(self._name, self._accuracy.so_far), refresh=False)
        self._bar.update()

    def _after_epoch(self):
        self._bar.close()

    def _after_train(self):
        if self._bar is not None:
            self._bar.close()


class RestOfEpoch(Callback):
    """Makes the first epoch of a run that is continued in mid-epoch the rest of that epoch, possibly without a step."""
    _chief_only = False

    def __init__(self, steps_per_epoch, start):
        self.steps_per_epoch = steps_per_epoch
        self.done = start.step - (start.epoch - 1) * steps_per_epoch

    def _before_epoch(self):
        self.trainer.loop.steps_per_epoch = self.steps_per_epoch - self.done
        self.done = 0
