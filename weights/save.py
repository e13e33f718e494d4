"""Writing checkpoints: whole or not at all, the newest ones and the best."""
import contextlib
import os
import shutil

import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback
from tensorpack.utils import logger

from files.atomic import UNFINISHED, write_text
from files.checksums import with_checksum
from ranks.end import reason
from weights import card
from weights.find import BEST_FILE, PARTS, best_prefix, best_record, name_latest, prefix_of, saved_steps
from weights.identity import some


def put_in_place(temporary, prefix, network=None):
    """Give a written TensorFlow checkpoint its name, ``prefix``; its index last, with which it is complete.

    network (dict): its card, written beside it; see ``weights.card``.
    """
    if network:
        write_text(prefix + card.ENDING, card.as_text(network))
    for part in PARTS:
        with open(temporary + part, 'rb') as f:
            os.fsync(f.fileno())
        os.replace(temporary + part, prefix + part)


def _remove(prefix):
    for part in (*reversed(PARTS), card.ENDING):  # the index first: without it the rest is no checkpoint
        if os.path.exists(prefix + part):
            os.remove(prefix + part)


class CheckpointSaver(Callback):
    """Saves all variables after each epoch: ``model-<step>``, the newest ``keep`` of them, and the best one.

    The best is that with the lowest ``monitor`` (a scalar), kept as ``best-<step>``, which best.json names. A
    checkpoint is written under a temporary name and renamed, its index last, so one with an index is whole. It is never
    written with a variable that is not finite. Where it cannot be written, OSError says why and which one is left.

    Args:
        folder (str). keep (int). monitor (str).
        statistics (Callback): brought up to date first, so that the history never lags behind the checkpoint.
        network (dict): what the network is, see ``weights.card``, kept beside each checkpoint; None for nothing.
        is_judged: () -> whether the weights are those that ``monitor`` is of; if not, they are not the best.
    """

    def __init__(self, folder, keep, monitor, statistics=None, network=None, is_judged=lambda: True):
        self.folder, self.keep, self.monitor, self.statistics = folder, keep, monitor, statistics
        self.network, self.is_judged = network, is_judged

    def _setup_graph(self):
        self.saver = tf.train.Saver(tf.global_variables(), max_to_keep=None)
        self._finite = {v.op.name: tf.reduce_all(tf.is_finite(v)) for v in tf.global_variables() if v.dtype.is_floating}

    def _before_train(self):
        for name in os.listdir(self.folder):  # what a killed run of this directory left half-written
            if UNFINISHED in name:
                os.remove(os.path.join(self.folder, name))

    def _trigger_epoch(self):
        with self._failing_in_one_line():
            self._check_finite()
            if self.statistics:
                self.statistics.trigger_epoch()
            self._save()
            if self.is_judged():
                self._keep_best(self.global_step)
            for old in saved_steps(self.folder)[:-self.keep]:
                _remove(prefix_of(self.folder, old))

    def save(self, write_before=lambda: None):
        """Save all variables as they are now, in the middle of an epoch too; ``write_before`` writes what belongs to
        them."""
        with self._failing_in_one_line():
            self._check_finite()
            write_before()
            self._save()

    @contextlib.contextmanager
    def _failing_in_one_line(self):
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            raise OSError('cannot write the checkpoint of step {}: {}; {}'.format(
                self.global_step, reason(error), name_latest(self.folder))) from error

    def _check_finite(self):
        finite = self.trainer.sess.run(self._finite)
        bad = sorted(name for name in finite if not finite[name])
        if bad:
            raise OSError('{} of {} variables are not finite, as {}'.format(len(bad), len(finite), some(bad)))

    def _save(self):
        prefix = prefix_of(self.folder, self.global_step)
        temporary = prefix + UNFINISHED
        self.saver.save(self.trainer.sess, temporary, write_meta_graph=False, write_state=False)
        put_in_place(temporary, prefix, self.network)
        write_text(os.path.join(self.folder, 'checkpoint'),
                   'model_checkpoint_path: "{}"\n'.format(os.path.basename(prefix)))

    def _keep_best(self, step):
        try:
            value = self.trainer.monitors.get_latest(self.monitor)
        except KeyError:  # not evaluated yet
            return
        try:
            before = best_record(self.folder)
        except ValueError as error:
            logger.warning('{}: the best checkpoint is chosen anew'.format(error))
            before = {}
        # A resumed run may be judged by another number of steps; then the search starts anew.
        if before.get(self.monitor, float('inf')) <= value:
            return
        best = best_prefix(self.folder, step)
        if self.network:
            write_text(best + card.ENDING, card.as_text(self.network))
        for part in PARTS:
            shutil.copyfile(prefix_of(self.folder, step) + part, best + UNFINISHED + part)
            os.replace(best + UNFINISHED + part, best + part)
        write_text(os.path.join(self.folder, BEST_FILE),
                   with_checksum({self.monitor: value, 'global_step': step, 'epoch': self.epoch_num}))
        if before and before['global_step'] != step:
            _remove(best_prefix(self.folder, before['global_step']))
