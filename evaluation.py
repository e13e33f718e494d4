"""Judging a network: clean and under attack, every image once, whatever the number of ranks."""
import copy
import csv
import json
import math
import os
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.callbacks import Callback
from tensorpack.tfutils.tower import TowerContext
from tensorpack.utils import logger
from tensorpack.utils.utils import get_tqdm

from adv_model import NO_TARGET, PREDICTION, TARGET, WRONG_TOP5, NoOpAttacker
from checkpoints import write_text
from third_party.utils import gather_rows

CLEAN = 'clean'
Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
_PER_ATTACK = (PREDICTION, WRONG_TOP5, TARGET)


class EvaluationTower:
    """Evaluation graph of one network: a clean pass, and one PGD attack whose length is fed.

    One graph serves attacks of any number of steps, so that its size does not grow with their number. Build it on all
    ranks, where a new variable scope may reuse the network's variables.

    Args:
        model (AdvImageNetModel). attacker (PGDAttacker): sets all but the number of steps. ranks (Ranks).
        attack_gradient (str): see ``AdvImageNetModel.get_inference_func``.
    """

    def __init__(self, model, attacker, ranks, attack_gradient=None):
        side = model.image_shape
        with TowerContext('evaluation', is_training=False):
            # Bytes of most data sets, but EfficientNet's resizing leaves fractions.
            self._image = tf.placeholder(tf.float32, [None, side, side, 3], name='image')
            self._label = tf.placeholder(tf.int32, [None], name='label')
            self._index = tf.placeholder(tf.int32, [None], name='index')
            self._num_iter = tf.placeholder(tf.int32, [], name='num_iter')
            self._step_size = tf.placeholder(tf.float32, [], name='step_size')
            fed = copy.copy(attacker)
            fed.num_iter, fed.step_size = self._num_iter, self._step_size
            inputs = self._image, self._label, self._index
            self._clean = model.get_inference_func(NoOpAttacker())(*inputs)
            self._attacked = model.get_inference_func(fed, attack_gradient)(*inputs)
        with tf.name_scope('gather_results'):
            self._local = tf.placeholder(tf.int32, [None, None])
            self._all = gather_rows(ranks, self._local, 'evaluation_rows')

    def run(self, session, batches, attackers, show_progress):
        """Evaluate this rank's ``batches`` and gather all ranks' verdicts.

        Args:
            batches (ValidationBatches).
            attackers (list of PGDAttacker): differ from the tower's in num_iter and step_size alone.
            show_progress (bool): draw a progress bar.
        Returns:
            dict: 'clean' and each attacker's name to ``Verdicts`` over all images of all ranks, by index.
        """
        columns = [_start_rows(1 + len(attackers))]
        with get_tqdm(total=len(batches), disable=not show_progress, desc='evaluation') as bar:
            for image, label, index in batches:
                feed = {self._image: image, self._label: label, self._index: index}
                passes = [session.run([self._clean[k] for k in _PER_ATTACK], feed)]
                for attacker in attackers:
                    feed.update({self._num_iter: attacker.num_iter, self._step_size: attacker.step_size})
                    passes.append(session.run([self._attacked[k] for k in _PER_ATTACK], feed))
                columns.append(np.stack([index, label] + [c for p in passes for c in p], axis=1).astype(np.int32))
                bar.update()
        rows = session.run(self._all, {self._local: np.concatenate(columns)})
        rows = rows[rows[:, 0] >= 0]
        rows = rows[np.argsort(rows[:, 0])]
        names = [CLEAN] + [a.name for a in attackers]
        width = len(_PER_ATTACK)
        return {name: Verdicts(rows[:, 0], rows[:, 1], *rows[:, 2 + width * k:2 + width * (k + 1)].T)
                for k, name in enumerate(names)}


def _start_rows(passes):
    """One row of padding (index -1): a rank without images still takes part in the gathering."""
    return np.full([1, 2 + len(_PER_ATTACK) * passes], -1, np.int32)


class Verdicts:
    """What a network says of a set of images in one pass over it; arrays [N], ordered by index.

    Attributes:
        index, label, prediction (int), wrong_top5 (bool), target (int, NO_TARGET where untargeted).
    """

    def __init__(self, index, label, prediction, wrong_top5, target):
        self.index, self.label, self.prediction, self.target = index, label, prediction, target
        self.wrong_top5 = wrong_top5.astype(bool)

    @property
    def correct(self):
        return self.prediction == self.label

    def summary(self):
        """Errors as fractions with 95% Wilson intervals, and the count of right ones; JSON-ready."""
        n = len(self.index)
        wrong1, wrong5 = int(n - self.correct.sum()), int(self.wrong_top5.sum())
        return {'top1_error': wrong1 / n, 'top1_error_95': wilson(wrong1, n), 'top1_correct': n - wrong1,
                'top5_error': wrong5 / n, 'top5_error_95': wilson(wrong5, n), 'top5_correct': n - wrong5}


def wilson(count, total):
    """95% Wilson score interval [low, high] of a fraction ``count / total`` (Wilson 1927)."""
    fraction, z2 = count / total, Z_95 ** 2
    centre = (fraction + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 * math.sqrt(fraction * (1 - fraction) / total + z2 / (4 * total ** 2)) / (1 + z2 / total)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def attack_success(clean, attacked):
    """(successes, trials) of an attack.

    Targeted: images given the target label, of all images (FD Sec 6.1). Untargeted: images right without the attack
    and wrong under it, of those right without it.
    """
    if len(attacked.target) and attacked.target[0] != NO_TARGET:
        return int((attacked.prediction == attacked.target).sum()), len(attacked.target)
    return int((clean.correct & ~attacked.correct).sum()), int(clean.correct.sum())


def make_results(verdicts, attacker, files_total, args, versions, seconds):
    """The content of results.json; ``attacker`` is None for a clean evaluation."""
    clean = verdicts[CLEAN]
    results = {'num_images': len(clean.index), 'num_unreadable': files_total - len(clean.index),
               'clean': clean.summary(), 'adversarial': None, 'attack_success_rate': None,
               'attack': (attacker or NoOpAttacker()).describe(),
               'args': args, 'versions': versions, 'seed': args['seed'], 'seconds': seconds}
    if attacker:
        attacked = verdicts[attacker.name]
        success, trials = attack_success(clean, attacked)
        results.update(adversarial=attacked.summary(),
                       attack_success_rate=success / trials if trials else 0.0,
                       attack_success_rate_95=wilson(success, trials) if trials else None,
                       attack_success_of=trials)
    return results


def make_results_folder(folder):
    """Make ``folder`` if need be.

    Raises:
        ValueError: it cannot be made, or not be written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ValueError("--results-dir '{}': {}".format(folder, error.strerror)) from error
    if not os.access(folder, os.W_OK):
        raise ValueError("--results-dir '{}': not writable".format(folder))


def write_results(folder, results, verdicts, attacker, files):
    """Write results.json and per_example.csv; files of those names that are there already are kept, renamed."""
    clean = verdicts[CLEAN]
    attacked = verdicts[attacker.name] if attacker else clean
    for name in ('results.json', 'per_example.csv'):
        _keep_older(os.path.join(folder, name))
    table = os.path.join(folder, 'per_example.csv')
    with open(table + '.writing', 'w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(['file', 'label', 'clean_pred', 'adv_pred', 'target'])
        for index, *row in zip(clean.index, clean.label, clean.prediction, attacked.prediction, attacked.target):
            writer.writerow([files[index]] + [int(v) for v in row])
    os.replace(table + '.writing', table)
    write_text(os.path.join(folder, 'results.json'), json.dumps(results, indent=2) + '\n')


def _keep_older(path):
    stem, extension = os.path.splitext(path)
    number = 1
    while os.path.exists('{}.{}{}'.format(stem, number, extension)):
        number += 1
    if os.path.exists(path):
        os.rename(path, '{}.{}{}'.format(stem, number, extension))


def print_results(results):
    """The released programs' three lines, of the attacked images, after the clean ones; fractions."""
    clean, attacked = results['clean'], results['adversarial']
    if attacked:
        print('Clean Top1 Error: {}'.format(clean['top1_error']))
        print('Clean Top5 Error: {}'.format(clean['top5_error']))
    print('Top1 Error: {}'.format((attacked or clean)['top1_error']))
    if attacked:
        print('Attack Success Rate: {}'.format(results['attack_success_rate']))
    print('Top5 Error: {}'.format((attacked or clean)['top5_error']))
    sys.stdout.flush()


class EvaluateRobustness(Callback):
    """Judges the network during training, over all ranks; every rank runs it, the first one reports.

    Reports ``eval-clean-top1-error``, ``eval-<k>step-top1-error``, the same for top5, and
    ``eval-<k>step-attack-success-rate``; with ``averages`` all of these for the averaged weights too, as ``eval-ema-...``.

    Args:
        model, attacker, ranks: see ``EvaluationTower``.
        make_batches: () -> ValidationBatches of this rank. num_images (int): of the whole set.
        attackers_after: (epoch) -> list of PGDAttacker to judge with after that epoch; empty for none.
        averages (AverageWeights): set up before this callback, or None.
    """
    _chief_only = False

    def __init__(self, model, attacker, ranks, make_batches, num_images, attackers_after, averages=None):
        self.model, self.attacker, self.ranks = model, attacker, ranks
        self.make_batches, self.num_images, self.attackers_after = make_batches, num_images, attackers_after
        self.averages = averages

    def _setup_graph(self):
        self.tower = EvaluationTower(self.model, self.attacker, self.ranks)

    def _trigger_epoch(self):
        attackers = self.attackers_after(self.epoch_num)
        if not attackers:
            return
        self._judge(attackers, averaged=False)
        if self.averages:
            with self.averages.in_place():
                self._judge(attackers, averaged=True)

    def _judge(self, attackers, averaged):
        begin = time.time()
        verdicts = self.tower.run(self.trainer.sess, self.make_batches(), attackers, self.ranks.is_chief)
        if not self.ranks.is_chief:
            return
        judged = len(verdicts[CLEAN].index)
        if not judged:
            logger.error('none of the {} validation images could be read: no evaluation'.format(self.num_images))
            return
        names = {CLEAN: monitored_name(CLEAN, averaged)}
        names.update((a.name, monitored_name(a.num_iter, averaged)) for a in attackers)
        for key, verdict in verdicts.items():
            summary = verdict.summary()
            self.trainer.monitors.put_scalar(names[key] + '-top1-error', summary['top1_error'])
            self.trainer.monitors.put_scalar(names[key] + '-top5-error', summary['top5_error'])
            if key != CLEAN:
                success, trials = attack_success(verdicts[CLEAN], verdict)
                self.trainer.monitors.put_scalar(names[key] + '-attack-success-rate', success / max(trials, 1))
        logger.info('Epoch {}: accuracy {}{} ({} images, {} unreadable, {:.0f} s)'.format(
            self.epoch_num, 'of the averaged weights ' if averaged else '',
            ', '.join('{} {:.1f}%'.format(key, 100 * v.correct.mean()) for key, v in verdicts.items()),
            judged, self.num_images - judged, time.time() - begin))


def monitored_name(attack, averaged=False):
    """Prefix of the scalars of an evaluation during training, as in the releases: of 'clean' images, or of an attack of
    so many steps; ``averaged`` weights have their own."""
    return 'eval-{}{}'.format('ema-' if averaged else '', attack if attack == CLEAN else '{}step'.format(attack))
