"""A long evaluation: attacks one after another, over all ranks, that can be stopped and continued at any batch."""
import contextlib
import time
from typing import List, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from adv_model import TARGET
from attacks.attacker import Lengths
from attacks.threat import NO_TARGET
from evaluation.passes import FOUND, ROW, Passes
from evaluation.verdicts import CLEAN, Verdicts
from ranks.end import fail
from ranks.gather import gather_rows
from ranks.terminal import bar, say

_SIGNAL = -2  # as the number of a pass: not a verdict, but the signal that a rank has got


class Found(NamedTuple):
    """What an evaluation has found so far with one attacker.

    verdicts (dict): 'clean' and the names of its attacks that have begun to ``Verdicts``; those of an attack are of the
    images that it and all before it are done with, and each image's are those of the last attack that ran on it.
    latest (Verdicts): likewise, of all images of ``verdicts['clean']``.
    broken_by (list of str): for each of these what made its label wrong: 'clean', an attack's name, 'none', or '' where
    there are attacks to come; None unless the attacks ran one after another.
    begun (bool): whether all its attacks have begun.
    """
    verdicts: dict
    latest: Verdicts
    broken_by: Optional[List[str]]
    begun: bool


class Outcome(NamedTuple):
    """What an evaluation has found so far.

    clean (Verdicts). found (list of Found): with each attacker.
    tried (int): images that ``clean`` would have if all could be read.
    signal (int): what stopped it; 0 if it is complete.
    """
    clean: Verdicts
    found: List[Found]
    tried: int
    signal: int


class Judging:
    """The evaluation of one network under some attackers, each a threat model of its own; build it on all ranks.

    The clean images are judged once for all of them. The parts of an attacker that runs them ``one_after_another``
    attack only the images that the network gets right after those before, in full batches of these; all others attack
    every image, batch by batch.

    Args:
        model (AdvImageNetModel). ranks (Ranks).
        attackers (list of Attacker): the parts of each of different names; either all run theirs one after another or
            none.
        titles (list of str): of the attackers, in the progress bar; [] for a single one.
        attack_gradient, attack_precision (str): see ``AdvImageNetModel.get_inference_func``.
    """

    def __init__(self, model, attackers, ranks, titles=(), attack_gradient=None, attack_precision='float32'):
        places = [(part, number) for attacker in attackers for number, part in enumerate(attacker.parts)]
        self._ranks, self._names = ranks, [CLEAN] + [part.name for part, _ in places]
        # Attacks of several threat models that differ in lengths alone share a graph, and are fed theirs.
        kinds = {(part.graph_key, number): part for part, number in places}
        lengths = Lengths.placeholders() if len(kinds) < len(places) else None
        self._passes = Passes(model, list(kinds.values()), attack_gradient, attack_precision, lengths)
        graphs = {kind: number for number, kind in enumerate(kinds, 1)}
        self._graphs = [(0, {})] + [(graphs[part.graph_key, number], lengths.feed(part.lengths) if lengths else {})
                                    for part, number in places]
        # Of each attacker the numbers of its passes, the clean one first.
        self._groups, first = [], 1
        for attacker in attackers:
            self._groups.append([0, *range(first, first + len(attacker.parts))])
            first = self._groups[-1][-1] + 1 if attacker.parts else first
        self._one_after_another = any(attacker.one_after_another for attacker in attackers)
        numbers = range(len(self._names))
        self._stages = [[k] for k in numbers] if self._one_after_another else [list(numbers)]
        self._shown = [self._title(k, titles) for k in numbers]
        with tf.name_scope('gather_verdicts'):
            self._local = tf.placeholder(tf.int32, [None, len(ROW)])
            self._all = gather_rows(ranks, self._local, 'verdict_rows')

    def samples(self, session, batches):
        """What one rank by itself sees of some images, clean and under the first attack; see ``Passes.samples``.

        Returns:
            str: the attack's name; 'clean' without one. list of Sample.
        """
        number = min(1, len(self._names) - 1)
        return self._names[number], self._passes.samples(session, batches, *self._graphs[number])

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
            wanted = table.standing_after(self._before(stage[0]))
            todo = order[(wanted & ~table.known[stage].all(axis=0))[order]]
            with self._bar(stage[-1], int(wanted.sum()), len(todo)) as progress:
                judged, signal = self._run_stage(session, stage, table, todo, make_batches(todo), signals, progress,
                                                 save)
            if len(self._stages) > 1 and not signal:
                say(self._describe(stage[-1], table))
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

    def _run_stage(self, session, stage, table, todo, batches, signals, progress, save):
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
                progress.set_description(self._describe(stage[-1], table), refresh=False)
                progress.update(judged - before)
                if signal:
                    return judged, signal
        return judged, 0

    def _judge(self, session, stage, batch):
        if batch is None:
            return np.empty([0, len(ROW)], np.int32)
        rows = []
        for k in stage:
            graph, lengths = self._graphs[k]
            rows.append(self._passes.judge(session, graph, batch, lengths))
            rows[-1][:, 0] = k
        return np.concatenate(rows)

    def _share(self, session, rows, signal=0):
        """All ranks' rows, and a row for each rank with its signal."""
        own = np.full([1, len(ROW)], _SIGNAL, np.int32)
        own[0, 1] = signal
        return session.run(self._all, {self._local: np.concatenate([own, rows])})

    def _title(self, number, titles):
        """What the bar says of a pass, or of the stage that it ends."""
        if number == 0 or len(titles) < 2:
            return self._names[number]
        group = next(g for g, numbers in enumerate(self._groups) if number in numbers)
        return '{} {}'.format(titles[group], self._names[number]) if self._one_after_another else 'under all'

    def _before(self, number):
        """The passes on whose verdicts it depends which images pass ``number`` attacks."""
        return [k for group in self._groups if number in group for k in group if k < number]

    def _bar(self, last_pass, total, left):
        return bar(total, self._shown[last_pass], self._ranks.is_chief, total - left)

    def _describe(self, last_pass, table):
        known = table.known[0]
        passes = self._before(last_pass) + [last_pass] if self._one_after_another else self._stages[0]
        count, total = int(table.robust(passes)[known].sum()), int(known.sum())
        return '{}: {:.1%} {}, {} of {}'.format(
            self._shown[last_pass], count / max(total, 1), 'robust' if last_pass else 'right', count, total)

    def _outcome(self, table, done, signal):
        done_with = dict((k, images) for stage, images in zip(self._stages, done) for k in stage)
        return Outcome(self._cumulative(table, [0], done_with[0]),
                       [self._found(table, group, done_with) for group in self._groups], int(done[0].sum()), signal)

    def _found(self, table, passes, done_with):
        verdicts = {self._names[k]: self._cumulative(table, passes[:number], done_with[k])
                    for number, k in enumerate(passes, 1) if k in done_with}
        latest = self._cumulative(table, passes, done_with[0])
        broken_by = None
        if self._one_after_another:
            breaker = table.breaker(passes)[latest.index]
            finished = done_with.get(passes[-1], np.zeros(len(table.label), bool))[latest.index]
            broken_by = [self._names[k] if k >= 0 else 'none' if f else '' for k, f in zip(breaker, finished)]
        return Found(verdicts, latest, broken_by, passes[-1] in done_with)

    def _cumulative(self, table, passes, images):
        index = np.flatnonzero(images & table.known[0])
        found = table.last_known(passes)[index]
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

    def standing_after(self, passes):
        """bool [images]: all of these passes were right."""
        return self._right()[passes].all(axis=0)

    def robust(self, passes):
        """bool [images]: right in the first of these passes, and in every other that is known."""
        right, known = self._right()[passes], self.known[passes]
        return right[0] & (right | ~known).all(axis=0)

    def breaker(self, passes):
        """int [images]: the first of these passes that was wrong, -1 where there is none."""
        wrong = (self.known & ~self._right())[passes]
        return np.where(wrong.any(axis=0), np.asarray(passes)[wrong.argmax(axis=0)], -1)

    def last_known(self, passes):
        """int32 [images, 4]: what the last known one of these passes found."""
        found = self._found[passes[0]]
        for k in passes[1:]:
            found = np.where(self.known[k][:, None], self._found[k], found)
        return found.copy()
