"""Watches a training for overfitting: what is said of it, and what becomes of the run; see ``training.overfitting``."""
import os
import re

import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback
from tensorpack.train.base import StopTraining
from tensorpack.utils import logger

from evaluation.during_training import attack_name, monitored_name, prefix
from ranks.gather import largest_over_ranks, share_variables
from ranks.terminal import say
from settings.run import BACK, STOP
from training.epochs import epochs_in, read_epochs
from training.overfitting import ENDED, NOTED, WENT_BACK_TO, figures_of, judge, reaction
from training.step.loss_scale import SCOPE as LOSS_SCALE
from weights.find import BEST, best_prefix, best_record, open_checkpoint
from weights.match import LoadWeights, load_into

_AGREED = [None, BACK, STOP]  # by the numbers that ranks exchange
# Variables that are of the run's place, not of the weights, and stay as they are where the weights go back.
_OF_THE_RUN = re.compile('(global_step|learning_rate|{}/.*)$'.format(LOSS_SCALE))


class WatchOverfitting(Callback):
    """Judges the training after each evaluation, notes what it finds as scalars, and ends the run or goes back.

    Going back gives the network, the optimizer's variables and the averages the values of the best checkpoint; the step
    and with it the rate go on. The first rank decides, by the records of the run alone, so that one that was resumed
    decides as one that was not, and all ranks follow.

    Must come after the evaluation and before the ``CheckpointSaver``: the epoch's record then has what was found, and
    its checkpoint the weights with which the next epoch begins.

    Args:
        ranks (Ranks). folder (str): log directory. wanted (str): STOP, BACK, or None to warn alone.
        attacker, watching (Attacker): of the training and of the evaluations; the latter None without any, where this
            is not set up. averaged (bool): whether the moving averages of the weights decide what is best.
        statistics (Statistics): on the first rank; None on others.
    """
    _chief_only = False

    def __init__(self, ranks, folder, wanted, attacker, watching, averaged, statistics):
        self.ranks, self.folder, self.wanted, self.statistics = ranks, folder, wanted, statistics
        self.attacker, self.averaged = attacker, averaged
        self.attack = watching and monitored_name(watching)[len(prefix(False)):]
        self._ends = self._went_back = False
        self._finding = self._decided = None

    def ends(self):
        """Whether the run ends before its last epoch."""
        return self._ends

    def has_stayed(self):
        """Whether the weights are those that were judged after this epoch: the run has not gone back since."""
        return not self._went_back

    def _setup_graph(self):
        with tf.device('/cpu:0'):
            self._mine = tf.placeholder(tf.int32, [], name='because_of_overfitting')
            self._agreed = largest_over_ranks(self.ranks, self._mine, 'because_of_overfitting')
        if self.wanted == BACK:
            self._share = share_variables(self.ranks, tf.global_variables())

    def _before_train(self):
        self._ends = self._agree(self._decided_before() if self.ranks.is_chief else None) == STOP

    def _before_epoch(self):
        self._went_back = False
        if self._ends:
            raise StopTraining('overfitting')

    def _trigger_epoch(self):
        self._decided = self._agree(self._decided_now() if self.ranks.is_chief else None)
        self._ends = self._decided == STOP
        if self._decided == BACK:
            if self.ranks.is_chief:
                self._load_best()
            self.trainer.sess.run(self._share)
            self._went_back = True

    def __call__(self, epochs):
        """Warn of what was found after the last of ``epochs``, as a listener of ``FollowEpochs``."""
        if self._finding and (self._finding.begins or self._decided):
            logger.warning('{}. {}'.format(self._in_words(), self._consequence()))

    def _agree(self, decided):
        """What the first rank has ``decided``, on all ranks."""
        return _AGREED[self.trainer.sess.run(self._agreed, {self._mine: _AGREED.index(decided)})]

    def _decided_before(self):
        """What the records of a run that goes on ask for."""
        decided = self._decide(read_epochs(self.folder))
        if decided == STOP and self.trainer.starting_epoch <= self.trainer.max_epoch:
            say('{}. The run has ended there; without --stop-when-overfitting it goes on'.format(self._in_words()))
        return decided

    def _decided_now(self):
        decided = self._decide(epochs_in(self.statistics.so_far()))
        if self._finding and self._finding.now.epoch != self.epoch_num:  # that of an epoch before
            self._finding = None
        if not self._finding:
            return None
        if self._finding.begins:
            self.trainer.monitors.put_scalar(NOTED + self._finding.kind, 1)
        if self.epoch_num == self.trainer.max_epoch:  # nothing is left to end
            return None
        if decided == STOP:
            self.trainer.monitors.put_scalar(ENDED, 1)
        return decided

    def _decide(self, epochs):
        self._finding = (judge(figures_of(epochs, self.attack, self.averaged)) or [None])[-1]
        back = {epoch.went_back_to for epoch in epochs}
        return reaction(self._finding, self.wanted, self._best_epoch() if self._finding else None, back)

    def _best_epoch(self):
        """That of the best checkpoint; None without one that says it."""
        try:
            return best_record(self.folder).get('epoch')
        except ValueError as error:
            logger.warning(str(error))

    def _load_best(self):
        session, epoch = self.trainer.sess, self._best_epoch()
        with session.graph.as_default():
            kept = [v for v in tf.global_variables() if _OF_THE_RUN.match(v.op.name)]
            values = session.run(kept)
            try:
                path = best_prefix(self.folder)
                LoadWeights(path, open_checkpoint(path), everything=True).init(session)
            except ValueError as error:
                raise OSError('cannot go back to epoch {}: {}'.format(epoch, error)) from error
            load_into(session, zip(kept, values))
        self.trainer.monitors.put_scalar(WENT_BACK_TO, epoch)

    def _in_words(self):
        return self._finding.in_words(attack_name(self.attack), self.attacker.name, self.averaged)

    def _consequence(self):
        """What becomes of the run, in words."""
        best = "'{}' (epoch {})".format(os.path.join(self.folder, BEST), self._best_epoch())
        if self._decided == BACK:
            return 'The run goes on with the weights of the best checkpoint, {}'.format(best)
        if self._decided == STOP:
            return 'The run ends here{}; the best checkpoint is {}'.format(
                ', as it has been back before' * (self.wanted == BACK), best)
        return 'The best checkpoint is {}{}'.format(
            best, '' if self.wanted else '; with --stop-when-overfitting a run ends here')
