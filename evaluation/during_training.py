"""Judging the network while it is trained."""
import re
import time

import numpy as np
from tensorpack.callbacks import Callback
from tensorpack.utils import logger

from evaluation.passes import EvaluationTower
from evaluation.verdicts import CLEAN, attack_success, too_many_unreadable
from machine.gpus import tensor_float_32

# Scalars of an evaluation, behind ``prefix`` or ``monitored_name``, and one of both evaluations of an epoch.
NUM_IMAGES, NUM_UNREADABLE, LARGEST_CLASS = 'num-images', 'num-unreadable', 'largest-class'
TOP1, TOP5, SUCCESS = '-top1-error', '-top5-error', '-attack-success-rate'
SECONDS_OF_EVALUATION = 'seconds-of-evaluation'


class EvaluateRobustness(Callback):
    """Judges the network during training, over all ranks; every rank runs it, the first one reports.

    Reports ``eval-clean-top1-error``, ``eval-<k>step-top1-error``, the same for top5, and
    ``eval-<k>step-attack-success-rate``, with the attacker's name in place of ``<k>step`` where its steps are not to be
    chosen; ``eval-num-images``, of which the errors are, and ``eval-num-unreadable``; ``eval-largest-class``, the part
    of the images that one class has at most; with ``averages`` all of these for the averaged weights too, as
    ``eval-ema-...``. ``seconds-of-evaluation`` is of both.

    Args:
        model, attackers, ranks: see ``EvaluationTower``.
        make_batches: () -> ValidationBatches of this rank; if training computes in TF32, of another size than any batch
            that it computes on (see ``tensor_float_32``). num_images (int): of the whole set.
        attackers_after: (epoch) -> list of attackers to judge with after that epoch, of different names and numbers of
            steps; empty for none.
        averages (AverageWeights): set up before this callback, or None.
    """
    _chief_only = False

    def __init__(self, model, attackers, ranks, make_batches, num_images, attackers_after, averages=None):
        self.model, self.attackers, self.ranks = model, attackers, ranks
        self.make_batches, self.num_images, self.attackers_after = make_batches, num_images, attackers_after
        self.averages = averages

    def _setup_graph(self):
        self.tower = EvaluationTower(self.model, self.attackers, self.ranks)

    def _trigger_epoch(self):
        attackers = self.attackers_after(self.epoch_num)
        if not attackers:
            return
        begin = time.time()
        self._judge(attackers, averaged=False)
        if self.averages:
            with self.averages.in_place():
                self._judge(attackers, averaged=True)
        self.trainer.monitors.put_scalar(SECONDS_OF_EVALUATION, time.time() - begin)

    def _judge(self, attackers, averaged):
        begin = time.time()
        with tensor_float_32(False):
            verdicts = self.tower.run(self.trainer.sess, self.make_batches(), attackers, self.ranks.is_chief)
        if not self.ranks.is_chief:
            return
        judged = len(verdicts[CLEAN].index)
        if not judged:
            logger.error('none of the {} validation images could be read: no evaluation'.format(self.num_images))
            return
        self.trainer.monitors.put_scalar(prefix(averaged) + NUM_IMAGES, judged)
        self.trainer.monitors.put_scalar(prefix(averaged) + NUM_UNREADABLE, self.num_images - judged)
        self.trainer.monitors.put_scalar(prefix(averaged) + LARGEST_CLASS,
                                         np.bincount(verdicts[CLEAN].label).max() / judged)
        names = {CLEAN: monitored_name(CLEAN, averaged)}
        names.update((a.name, monitored_name(a, averaged)) for a in attackers)
        for key, verdict in verdicts.items():
            summary = verdict.summary()
            self.trainer.monitors.put_scalar(names[key] + TOP1, summary['top1_error'])
            self.trainer.monitors.put_scalar(names[key] + TOP5, summary['top5_error'])
            if key != CLEAN:
                success, trials = attack_success(verdicts[CLEAN], verdict)
                self.trainer.monitors.put_scalar(names[key] + SUCCESS, success / max(trials, 1))
        if too_many_unreadable(judged, self.num_images):
            logger.warning('{} of {} validation images could not be read: the figures are of the others alone'.format(
                self.num_images - judged, self.num_images))
        logger.info('Epoch {}: accuracy {}{} ({} images, {} unreadable, {:.0f} s)'.format(
            self.epoch_num, 'of the averaged weights ' if averaged else '',
            ', '.join('{} {:.1f}%'.format(key, 100 * v.correct.mean()) for key, v in verdicts.items()),
            judged, self.num_images - judged, time.time() - begin))


def monitored_name(attack, averaged=False):
    """Prefix of the scalars of an evaluation during training, as in the releases: of CLEAN images, or of an attacker by
    its number of steps, where that is to be chosen; ``averaged`` weights have their own."""
    if attack != CLEAN:
        attack = '{}step'.format(attack.lengths.num_iter) if attack.lengths else attack.name
    return prefix(averaged) + attack


def attack_name(monitored):
    """What an attack is called where people read it: 'PGD-10' for the '10step' of scalars, other names as they are."""
    return re.sub(r'^(\d+)step$', r'PGD-\1', monitored)


def prefix(averaged):
    """What the names of all scalars of an evaluation during training begin with."""
    return 'eval-ema-' if averaged else 'eval-'
