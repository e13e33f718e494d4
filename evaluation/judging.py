"""A long evaluation: attacks one after another, over all ranks, that can be stopped and continued at any batch."""
import contextlib
import time
from typing import List, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.utils.utils import get_tqdm

from adv_model import TARGET
from attacks.threat import NO_TARGET
from evaluation.passes import FOUND, ROW, Passes
from evaluation.verdicts import CLEAN, Verdicts
from ranks.end import fail
from ranks.gather import gather_rows

_SIGNAL = -2  # as the number of a pass: not a verdict, but the signal that a rank has got


class Outcome(NamedTuple):
    """What an evaluation has found so far.

    verdicts (dict): 'clean' and the names of the attacks that have begun to ``Verdicts``; those of an attack are of the
    images that it and all before it are done with, and each image's are those of the last attack that ran on it.
    latest (Verdicts): likewise, of all images of ``verdicts['clean']``.
    broken_by (list of str): for each of these what made its label wrong: 'clean', an attack's name, 'none', or '' where
    there are attacks to come; None unless the attacks ran one after another.
    tried (int): images that ``verdicts['clean']`` would have if all could be read.
    signal (int): what stopped it; 0 if it is complete.
    """
    verdicts: dict
    latest: Verdicts
    broken_by: Optional[List[str]]
    tried: int
    signal: int


class Judging:
    """The evaluation of one network under some attackers; build it on all ranks.

    Args:
        model (AdvImageNetModel). attackers (list): of different names. ranks (Ranks).
        one_after_another (bool): each attack only on the images that the network gets right after those before, in full
            batches of these; else all attacks on every image, batch by batch.
        attack_gradient, attack_precision (str): see ``AdvImageNetModel.get_inference_func``.
    """

    def __init__(self, model, attackers, ranks, one_after_another, attack_gradient=None,
                 attack_precision='float32'):
        self._ranks, self._names = ranks, [CLEAN] + [a.name for a in attackers]
        self._passes = Passes(model, attackers, attack_gradient, attack_precision)
        numbers = range(len(self._names))
        self._one_after_another = one_after_another
        self._stages = [[k] for k in numbers] if one_after_another else [list(numbers)]
        with tf.name_scope('gather_verdicts'):
            self._local = tf.placeholder(tf.int32, [None, len(ROW)])
            self._all = gather_rows(ranks, self._local, 'verdict_rows')

    def run(self, session, dataset, make_batches, seed, journal, signals):
        """Judge all images, or go on until a signal; all ranks together.

        The images come in an order drawn from ``seed``, so that those judged so far are a fair sample of all. All ranks
        know all verdicts after each round of batches, and share the images of each attack anew.

        Args:
            dataset (ImageSet or RecordSet).
            make_batches: (indices) -> ValidationBatches of this rank's share of these images.
            journal (Journal): on the first rank, with what has been judged before; None on others.
            signals (StopSignal): looked at after each batch.
        Returns:
            Outcome.
        """
        begin = time.time() - (journal.seconds if journal else 0)
        order = np.random.default_rng(seed).permutation(len(dataset.files))
        table = _Table(len(self._names), len(order))
        table.add(self._share(session, journal.rows if journal else np.empty([0, len(ROW)], np.int32)))
        signals.deferred = True
        done = []

        def save(rows):
            if journal and len(rows):
                journal.append(rows, time.time() - begin)
        for stage in self._stages:
            wanted = table.standing_before(stage[0])
            todo = order[(wanted & ~table.known[stage].all(axis=0))[order]]
            with self._bar(stage[-1], int(wanted.sum()), len(todo)) as bar:
                judged, signal = self._run_stage(session, stage, table, todo, make_batches(todo), signals, bar, save)
            # An image that was read for an earlier attack must not count as having withstood one it was not read for.
            lost = todo[:judged][~table.known[stage[0]][todo[:judged]]]
            if stage[0] and len(lost):
                fail("'{}' cannot be read any more; when it can, --resume-eval goes on".format(dataset.files[lost[0]]),
                     self._ranks.rank)
            # What comes before the first image that is left is done with this stage, whatever became of it.
            reached = list(order).index(todo[judged]) if judged < len(todo) else len(order)
            done.append(np.isin(np.arange(len(order)), order[:reached]))
            if signal:
                break
        complete = len(done) == len(self._stages) and done[-1].all()
        return self._outcome(table, done, 0 if complete else int(signal))

    def _run_stage(self, session, stage, table, todo, batches, signals, bar, save):
        """All ranks' rounds of batches, until a signal.

        Returns:
            how many of ``todo`` have been asked for, and the signal or 0.
        """
        judged = 0
        with contextlib.closing(iter(batches)) as mine:
            for number in range(batches.rounds):
                rows = self._share(session, self._judge(session, stage, next(mine, None)), signals.number)
                signal = rows[rows[:, 0] == _SIGNAL, 1].max()
                rows = rows[rows[:, 0] >= 0]
                table.add(rows)
                save(rows)
                before, judged = judged, min(len(todo), (number + 1) * batches.round_size)
                bar.set_description(self._describe(stage[-1], table), refresh=False)
                bar.update(judged - before)
                if signal:
                    return judged, signal
        return judged, 0

    def _judge(self, session, stage, batch):
        if batch is None:
            return np.empty([0, len(ROW)], np.int32)
        return np.concatenate([self._passes.judge(session, k, batch) for k in stage])

    def _share(self, session, rows, signal=0):
        """All ranks' rows, and a row for each rank with its signal."""
        own = np.full([1, len(ROW)], _SIGNAL, np.int32)
        own[0, 1] = signal
        return session.run(self._all, {self._local: np.concatenate([own, rows])})

    def _bar(self, last_pass, total, left):
        return get_tqdm(total=total, initial=total - left, disable=not self._ranks.is_chief,
                        desc=self._names[last_pass])

    def _describe(self, last_pass, table):
        known = table.known[0]
        return '{}: {:.1f}% {}'.format(self._names[last_pass], 100 * table.robust()[known].mean() if known.any() else 0,
                                       'robust' if last_pass else 'right')

    def _outcome(self, table, done, signal):
        done_with = dict((k, images) for stage, images in zip(self._stages, done) for k in stage)
        verdicts = {self._names[k]: self._cumulative(table, k, images) for k, images in done_with.items()}
        last = len(self._names) - 1
        latest = self._cumulative(table, last, done_with[0])
        broken_by = None
        if self._one_after_another:
            breaker = table.breaker()[latest.index]
            finished = done_with.get(last, np.zeros(len(table.label), bool))[latest.index]
            broken_by = [self._names[k] if k >= 0 else 'none' if f else '' for k, f in zip(breaker, finished)]
        return Outcome(verdicts, latest, broken_by, int(done[0].sum()), signal)

    def _cumulative(self, table, last_pass, images):
        index = np.flatnonzero(images & table.known[0])
        found = table.last_known(last_pass)[index]
        if self._one_after_another:  # which attack's target it would be differs from image to image
            found[:, FOUND.index(TARGET)] = NO_TARGET
        return Verdicts(index, table.label[index], *found.T)


class _Table:
    """The verdicts of all passes on all images, as far as they are known."""

    def __init__(self, passes, images):
        self.label = np.zeros(images, np.int32)
        self.known = np.zeros([passes, images], bool)
        self._found = np.zeros([passes, images, len(FOUND)], np.int32)

    def add(self, rows):
        """``rows``: int [n, 7], columns as ``ROW``; those of no pass are passed over."""
        number, index, label, *found = rows[rows[:, 0] >= 0].T
        self.label[index], self.known[number, index] = label, True
        self._found[number, index] = np.stack(found, axis=1)

    def _right(self):
        """bool [passes, images]: the label was predicted."""
        return self.known & (self._found[:, :, 0] == self.label)

    def standing_before(self, number):
        """bool [images]: all passes before this one were right."""
        return self._right()[:number].all(axis=0)

    def robust(self):
        """bool [images]: right without an attack and in every pass so far."""
        return self._right()[0] & (self._right() | ~self.known).all(axis=0)

    def breaker(self):
        """int [images]: the first pass that was wrong, -1 where there is none."""
        wrong = self.known & ~self._right()
        return np.where(wrong.any(axis=0), wrong.argmax(axis=0), -1)

    def last_known(self, number):
        """int32 [images, 4]: what the last known pass up to this one found."""
        found = self._found[0]
        for k in range(1, number + 1):
            found = np.where(self.known[k][:, None], self._found[k], found)
        return found.copy()
