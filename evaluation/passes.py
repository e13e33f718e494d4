"""Passes of a network over batches of images: clean and under attack."""
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

from adv_model import ATTACKED, PREDICTION, SUCCESS_AT_ANY_STEP, TARGET, WRONG_TOP5
from attacks.attacker import Lengths
from attacks.pgd import NoOpAttacker
from evaluation.verdicts import CLEAN, Verdicts
from ranks.gather import gather_rows
from ranks.terminal import bar

FOUND = (PREDICTION, WRONG_TOP5, TARGET, SUCCESS_AT_ANY_STEP)
ROW = ('pass', 'index', 'label') + FOUND  # columns of a verdict on an image; pass 0 is the clean one


class Passes:
    """Graph of one network that judges batches: without an attack, which is pass 0, and under each of some attackers.

    Build it where a new variable scope may reuse the network's variables.

    Args:
        model (AdvImageNetModel). attackers (list).
        attack_gradient, attack_precision (str): see ``AdvImageNetModel.get_inference_func``.
        lengths (Lengths): of all attackers that take others than their own, in place of these.
    """

    def __init__(self, model, attackers, attack_gradient=None, attack_precision='float32', lengths=None):
        side = model.image_shape
        with TowerContext('evaluation', is_training=False):
            # Bytes of most data sets, but EfficientNet's resizing leaves fractions.
            self._image = tf.placeholder(tf.float32, [None, side, side, 3], name='image')
            self._label = tf.placeholder(tf.int32, [None], name='label')
            self._index = tf.placeholder(tf.int32, [None], name='index')
            inputs = self._image, self._label, self._index
            self._found = [model.get_inference_func(NoOpAttacker())(*inputs)]
            self._found += [model.get_inference_func(a, attack_gradient, attack_precision, a.lengths and lengths)(
                *inputs) for a in attackers]

    def judge(self, session, number, batch, feed=()):
        """One pass over a batch.

        Args:
            number (int): of the pass. batch: image, label, index as ``ValidationBatches`` yields them.
            feed (dict): what the lengths need.
        Returns:
            np.ndarray: int32 [n, 7], columns as ``ROW``, of the rows that have an image.
        """
        image, label, index = batch
        found = session.run([self._found[number][name] for name in FOUND],
                            {**dict(feed), self._image: image, self._label: label, self._index: index})
        return np.stack([np.full(len(index), number), index, label] + found, axis=1).astype(np.int32)[index >= 0]

    def show(self, session, number, batch, feed=()):
        """As ``judge``, what one pass looks at.

        Returns:
            np.ndarray: predictions, int32 [n]. np.ndarray: the images under its attack, float32 [n,S,S,3], BGR, 0-255.
        """
        image, label, index = batch
        found = session.run([self._found[number][name] for name in (PREDICTION, ATTACKED)],
                            {**dict(feed), self._image: image, self._label: label, self._index: index})
        return [values[index >= 0] for values in found]

    def samples(self, session, batches, number, feed=()):
        """What one rank by itself sees of some images.

        Args:
            batches (ValidationBatches). number, feed: see ``judge``.
        Returns:
            list of Sample: of the images that can be read.
        """
        found = []
        for image, label, index in batches:
            clean, _ = self.show(session, 0, (image, label, index))
            under, attacked = self.show(session, number, (image, label, index), feed)
            read = index >= 0
            found += [Sample(before[..., ::-1], after[..., ::-1], *map(int, said)) for before, after, *said in zip(
                image[read], attacked, label[read], clean, under)]
        return found


class Sample(NamedTuple):
    """An image beside itself under an attack: uint8 and float32 [S,S,3] in RGB, 0-255; its label, and what the network
    makes of both, -1 where its logits are not finite."""
    image: np.ndarray
    attacked: np.ndarray
    label: int
    prediction: int
    attacked_prediction: int


class EvaluationTower:
    """Evaluation graph of one network: a clean pass, and one for each kind of attacker.

    Lengths are fed, so that one pass serves attackers that differ in these alone, and the graph does not grow with
    their number. Build it on all ranks, where a new variable scope may reuse the network's variables.

    Args:
        model (AdvImageNetModel). attackers (list): one at least of every kind that is to judge. ranks (Ranks).
    """

    def __init__(self, model, attackers, ranks):
        self._lengths = Lengths.placeholders()
        kinds = {attacker.graph_key: attacker for attacker in attackers}
        self._numbers = {key: number for number, key in enumerate(kinds, 1)}
        self._passes = Passes(model, list(kinds.values()), lengths=self._lengths)
        with tf.name_scope('gather_results'):
            self._local = tf.placeholder(tf.int32, [None, len(ROW)])
            self._all = gather_rows(ranks, self._local, 'evaluation_rows')

    def run(self, session, batches, attackers, show_progress):
        """Evaluate this rank's ``batches`` and gather all ranks' verdicts.

        Args:
            batches (ValidationBatches).
            attackers (list): of different names, and of the tower's kinds.
            show_progress (bool): draw a progress bar.
        Returns:
            dict: 'clean' and each attacker's name to ``Verdicts`` over all images of all ranks, by index.
        """
        for attacker in attackers:
            assert attacker.graph_key in self._numbers, '{} is of no kind that the graph has'.format(attacker.name)
        # A row of no pass: a rank without images still takes part in the gathering.
        rows = [np.full([1, len(ROW)], -1, np.int32)]
        with bar(len(batches), 'evaluation', show_progress) as progress:
            for batch in batches:
                rows.append(self._passes.judge(session, 0, batch))
                for number, attacker in enumerate(attackers, 1):
                    found = self._passes.judge(session, self._numbers[attacker.graph_key], batch,
                                               self._lengths.feed(attacker.lengths))
                    found[:, 0] = number
                    rows.append(found)
                progress.update()
        rows = session.run(self._all, {self._local: np.concatenate(rows)})
        rows = rows[np.argsort(rows[:, 1], kind='stable')]
        return {name: Verdicts(*rows[rows[:, 0] == number, 1:].T)
                for number, name in enumerate([CLEAN] + [a.name for a in attackers])}

    def samples(self, session, batches, attacker):
        """What one rank by itself sees of some images.

        Args:
            batches (ValidationBatches). attacker: one of the tower's kinds.
        Returns:
            list of Sample: of the images that can be read.
        """
        return self._passes.samples(session, batches, self._numbers[attacker.graph_key],
                                    self._lengths.feed(attacker.lengths))


def row_ranges(passes, images, classes):
    """Lowest and highest value in each column of ``ROW``."""
    label, flag = (-1, classes - 1), (0, 1)  # -1: no target, or logits that are not finite
    return [(0, passes - 1), (0, images - 1), (0, classes - 1), label, flag, label, flag]
