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

from adv_model import LAST_STEP, NO_TARGET, PREDICTION, SUCCESS_AT_ANY_STEP, TARGET, WRONG_TOP5, NoOpAttacker
from weights.match import keep_older, read_json, write_text
from machine.gpus import tensor_float_32
from files.typed import anything, record, truth
from ranks.gather import gather_rows, source_version

CLEAN = 'clean'
Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
_MAYBE_INCOMPLETE = record({'complete': truth}, others=anything, maybe=['complete'])
FOUND = (PREDICTION, WRONG_TOP5, TARGET, SUCCESS_AT_ANY_STEP)
MAX_UNREADABLE = 0.01  # of all images; figures of fewer are not what was asked for
UNREADABLE_EXIT_CODE = 3
ROW = ('pass', 'index', 'label') + FOUND  # columns of a verdict on an image; pass 0 is the clean one


class Passes:
    """Graph of one network that judges batches: without an attack, which is pass 0, and under each of some attackers.

    Build it where a new variable scope may reuse the network's variables.

    Args:
        model (AdvImageNetModel). attackers (list).
        attack_gradient, attack_precision (str): see ``AdvImageNetModel.get_inference_func``.
    """

    def __init__(self, model, attackers, attack_gradient=None, attack_precision='float32'):
        side = model.image_shape
        with TowerContext('evaluation', is_training=False):
            # Bytes of most data sets, but EfficientNet's resizing leaves fractions.
            self._image = tf.placeholder(tf.float32, [None, side, side, 3], name='image')
            self._label = tf.placeholder(tf.int32, [None], name='label')
            self._index = tf.placeholder(tf.int32, [None], name='index')
            inputs = self._image, self._label, self._index
            self._found = [model.get_inference_func(NoOpAttacker())(*inputs)]
            self._found += [model.get_inference_func(a, attack_gradient, attack_precision)(*inputs) for a in attackers]

    def judge(self, session, number, batch, feed=()):
        """One pass over a batch.

        Args:
            number (int): of the pass. batch: image, label, index as ``ValidationBatches`` yields them.
            feed (dict): what the attacker needs besides.
        Returns:
            np.ndarray: int32 [n, 7], columns as ``ROW``, of the rows that have an image.
        """
        image, label, index = batch
        found = session.run([self._found[number][name] for name in FOUND],
                            {**dict(feed), self._image: image, self._label: label, self._index: index})
        return np.stack([np.full(len(index), number), index, label] + found, axis=1).astype(np.int32)[index >= 0]


class EvaluationTower:
    """Evaluation graph of one network: a clean pass, and one PGD attack whose numbers are fed.

    One graph serves attacks of any steps, radius and step size, so that it does not grow with their number. Build it on
    all ranks, where a new variable scope may reuse the network's variables.

    Args:
        model (AdvImageNetModel). attacker (PGDAttacker): sets all but these numbers. ranks (Ranks).
    """

    def __init__(self, model, attacker, ranks):
        self._fed = {name: tf.placeholder(kind, [], name=name) for name, kind in (
            ('num_iter', tf.int32), ('epsilon', tf.float32), ('step_size', tf.float32))}
        fed = copy.copy(attacker)
        vars(fed).update(self._fed)
        self._passes = Passes(model, [fed])
        with tf.name_scope('gather_results'):
            self._local = tf.placeholder(tf.int32, [None, len(ROW)])
            self._all = gather_rows(ranks, self._local, 'evaluation_rows')

    def run(self, session, batches, attackers, show_progress):
        """Evaluate this rank's ``batches`` and gather all ranks' verdicts.

        Args:
            batches (ValidationBatches).
            attackers (list of PGDAttacker): of different names; differ from the tower's in num_iter, epsilon and
                step_size alone.
            show_progress (bool): draw a progress bar.
        Returns:
            dict: 'clean' and each attacker's name to ``Verdicts`` over all images of all ranks, by index.
        """
        # A row of no pass: a rank without images still takes part in the gathering.
        rows = [np.full([1, len(ROW)], -1, np.int32)]
        with get_tqdm(total=len(batches), disable=not show_progress, desc='evaluation') as bar:
            for batch in batches:
                rows.append(self._passes.judge(session, 0, batch))
                for number, attacker in enumerate(attackers, 1):
                    found = self._passes.judge(session, 1, batch, {
                        placeholder: getattr(attacker, name) for name, placeholder in self._fed.items()})
                    found[:, 0] = number
                    rows.append(found)
                bar.update()
        rows = session.run(self._all, {self._local: np.concatenate(rows)})
        rows = rows[np.argsort(rows[:, 1], kind='stable')]
        return {name: Verdicts(*rows[rows[:, 0] == number, 1:].T)
                for number, name in enumerate([CLEAN] + [a.name for a in attackers])}


class Verdicts:
    """What a network says of a set of images in one pass over it; arrays [N], ordered by index.

    Attributes:
        index, label, prediction (int), wrong_top5 (bool), target (int, NO_TARGET where untargeted), any_step (bool:
        whether the attack succeeded at any step).
    """

    def __init__(self, index, label, prediction, wrong_top5, target, any_step):
        self.index, self.label, self.prediction, self.target = index, label, prediction, target
        self.wrong_top5, self.any_step = wrong_top5.astype(bool), any_step.astype(bool)

    @property
    def correct(self):
        return self.prediction == self.label

    def of(self, index):
        """The ``Verdicts`` on the images ``index`` (int [n], ascending), which must be among these."""
        chosen = np.searchsorted(self.index, index)
        return Verdicts(*(a[chosen] for a in (self.index, self.label, self.prediction, self.wrong_top5, self.target,
                                              self.any_step)))

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


def attack_success(clean, attacked, any_step=False):
    """(successes, trials) of an attack, on the images that it returned or, with ``any_step``, at any of its steps.

    Targeted: images given the target label, of all images (FD Sec 6.1). Untargeted: images right without the attack
    and wrong under it, of those right without it.
    """
    targeted = len(attacked.target) and attacked.target[0] != NO_TARGET
    tried = np.ones(len(attacked.target), bool) if targeted else clean.correct
    success = attacked.prediction == attacked.target if targeted else ~attacked.correct
    return int((tried & (attacked.any_step if any_step else success)).sum()), int(tried.sum())


def row_ranges(passes, images, classes):
    """Lowest and highest value in each column of ``ROW``."""
    label, flag = (-1, classes - 1), (0, 1)  # -1: no target, or logits that are not finite
    return [(0, passes - 1), (0, images - 1), (0, classes - 1), label, flag, label, flag]


def too_many_unreadable(read, total):
    """Whether so many images could not be read that figures of the others alone would mislead."""
    return total - read > MAX_UNREADABLE * total


def results_name(network, checkpoint, attacker, data):
    """Name of an evaluation's folder: network, checkpoint, attack with its steps, norm and radius, and data set.

    Args:
        network, checkpoint, data (str): names, or a path of the latter two. attacker: a single one, an ``Ensemble`` or
        None.
    """
    parts = [network, os.path.basename(checkpoint), attacker.name if attacker else 'clean']
    if attacker:
        parts += [attacker.norm] if not attacker.name.endswith(attacker.norm) else []
        parts += ['eps{:g}'.format(attacker.epsilon)]
    return '-'.join(parts + [os.path.basename(os.path.normpath(data))])


def make_results(verdicts, attacker, files_total, args, versions, seconds, complete=True):
    """The content of results.json.

    Args:
        verdicts (dict): 'clean' and the attacks' names to ``Verdicts``, in the order of the attacks.
        attacker: a single one, or an ``Ensemble``; None for a clean evaluation.
        files_total (int): images that were to be judged up to now. complete (bool): whether these are all there are.
    """
    clean = verdicts[CLEAN]
    names = list(verdicts)
    results = {'num_images': len(clean.index), 'num_unreadable': files_total - len(clean.index), 'complete': complete,
               'too_many_unreadable': too_many_unreadable(len(clean.index), files_total),
               'clean': clean.summary(), 'adversarial': None, 'attack_success_rate': None, 'verdict': None,
               'attack': (attacker or NoOpAttacker()).describe(), 'threat_model': None, 'attacks': [],
               'args': args, 'versions': versions, 'source': source_version(), 'seed': args['seed'], 'seconds': seconds,
               'tf32': tf.config.experimental.tensor_float_32_execution_enabled()}
    if attacker:
        results.update(threat_model=threat_model(attacker), verdict=attacker.verdict)
        attackers = getattr(attacker, 'attackers', [attacker])
        results['attacks'] = [dict(a.describe(), **_robust(verdicts, names[:number + 1]))
                              for number, a in enumerate(attackers, 1) if a.name in verdicts]
    if len(names) > 1:
        attacked = verdicts[names[-1]]
        results['adversarial'] = attacked.summary()
        for name, any_step in (('attack_success_rate', False), ('attack_success_rate_at_any_step', True)):
            success, trials = attack_success(clean.of(attacked.index), attacked, any_step)
            results.update({name: success / trials if trials else 0.0,
                            name + '_95': wilson(success, trials) if trials else None, 'attack_success_of': trials})
    return results


def threat_model(attacker):
    """Norm and radius, in pixel levels, 0-255, and for images in [0, 1]; JSON-ready."""
    return {'norm': attacker.norm, 'epsilon': attacker.epsilon, 'epsilon_of_unit_images': attacker.epsilon / 255}


def _robust(verdicts, names):
    """How many of the images that the last of ``names`` is done with were right in all of their verdicts."""
    index = verdicts[names[-1]].index
    correct = [verdicts[name].of(index).correct for name in names]
    n, robust, before = len(index), int(np.all(correct, axis=0).sum()), int(np.all(correct[:-1], axis=0).sum())
    return {'num_images': n, 'robust_correct': robust, 'broken': before - robust,
            'robust_accuracy': robust / n if n else None, 'robust_accuracy_95': wilson(robust, n) if n else None}


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


def write_results(folder, results, clean, attacked, files, broken_by=None, continued=False):
    """Write results.json and per_example.csv; files of those names that are there already are kept, renamed.

    Args:
        clean, attacked (Verdicts): of the same images. files (sequence of str): names by index.
        broken_by (list of str): a further column, or None.
        continued (bool): whether incomplete results that are there may be of this evaluation, and be replaced.
    """
    path, table = (os.path.join(folder, name) for name in ('results.json', 'per_example.csv'))
    if not (continued and _is_incomplete(path)):
        for name in (path, table):
            keep_older(name)
    with open(table + '.writing', 'w', newline='') as f:
        writer = csv.writer(f)
        writer.writerow(['file', 'label', 'clean_pred', 'adv_pred', 'target'] + ['broken_by'] * (broken_by is not None))
        for number, (index, *row) in enumerate(zip(clean.index, clean.label, clean.prediction, attacked.prediction,
                                                   attacked.target)):
            writer.writerow([files[index]] + [int(v) for v in row] +
                            ([] if broken_by is None else [broken_by[number]]))
    os.replace(table + '.writing', table)
    write_text(path, json.dumps(results, indent=2) + '\n')


def _is_incomplete(path):
    try:
        return os.path.isfile(path) and read_json(path, _MAYBE_INCOMPLETE).get('complete') is False
    except ValueError:  # damaged, or something else: to be kept
        return False


def print_results(results):
    """The released programs' three lines, of the attacked images, after the clean ones; fractions.

    Of images that were left where the attack first succeeded, they have names of their own: these figures are not the
    releases'.
    """
    clean, attacked = results['clean'], results['adversarial']
    stopped = results['attack'].get('early_stop')
    if attacked:
        print('Clean Top1 Error: {}'.format(clean['top1_error']))
        print('Clean Top5 Error: {}'.format(clean['top5_error']))
    if attacked and results['verdict'] == LAST_STEP:
        print('Attack Success Rate At Any Step: {}'.format(results['attack_success_rate_at_any_step']))
    when = ' When Stopped' if stopped else ''
    print('Top1 Error{}: {}'.format(when, (attacked or clean)['top1_error']))
    if attacked:
        print('Attack Success Rate{}: {}'.format(' At Any Step' if stopped else '', results['attack_success_rate']))
    print('Top5 Error{}: {}'.format(when, (attacked or clean)['top5_error']))
    sys.stdout.flush()


class EvaluateRobustness(Callback):
    """Judges the network during training, over all ranks; every rank runs it, the first one reports.

    Reports ``eval-clean-top1-error``, ``eval-<k>step-top1-error``, the same for top5, and
    ``eval-<k>step-attack-success-rate``; with ``averages`` all of these for the averaged weights too, as ``eval-ema-...``.

    Args:
        model, attacker, ranks: see ``EvaluationTower``.
        make_batches: () -> ValidationBatches of this rank; if training computes in TF32, of another size than any batch
            that it computes on (see ``tensor_float_32``). num_images (int): of the whole set.
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
        with tensor_float_32(False):
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
        if too_many_unreadable(judged, self.num_images):
            logger.warning('{} of {} validation images could not be read: the figures are of the others alone'.format(
                self.num_images - judged, self.num_images))
        logger.info('Epoch {}: accuracy {}{} ({} images, {} unreadable, {:.0f} s)'.format(
            self.epoch_num, 'of the averaged weights ' if averaged else '',
            ', '.join('{} {:.1f}%'.format(key, 100 * v.correct.mean()) for key, v in verdicts.items()),
            judged, self.num_images - judged, time.time() - begin))


def monitored_name(attack, averaged=False):
    """Prefix of the scalars of an evaluation during training, as in the releases: of 'clean' images, or of an attack of
    so many steps; ``averaged`` weights have their own."""
    return 'eval-{}{}'.format('ema-' if averaged else '', attack if attack == CLEAN else '{}step'.format(attack))
