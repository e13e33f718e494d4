"""A network for who has NumPy arrays: predictions, attacks, gradients, evaluations."""
import contextlib
import dataclasses
import json
import os
import secrets
import tempfile
from typing import List, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

import nets
from adv_model import ATTACK_SUCCESS, PREDICTION, TARGET
from commands import judge, sources
from commands.networks import make_evaluation_attacker
from data.synsets import synset_words
from data.views import default_augmentation
from ranks.launched import Ranks
from ranks.terminal import open_terminal, say
from sat import options, pixels
from sat.images import open_images
from sat.in_session import ADVERSARIAL, LOGITS, InSession, one_graph_at_a_time, parts_of
from settings.resolve import resolve
from training.stopping import StopSignal
from weights.classes import read_classes
from weights.flags import refuse_another_network
from zoo.fetch import bring

open_terminal()

_IMAGENET = 1000  # classes
_SEEDS = 2 ** 31  # as of --seed
_AT_ONCE = 16  # batches that are made of files, or resized, before the network sees the first


class Adversarial(NamedTuple):
    """What an attack made of N images.

    images: float32 [N,S,S,3], RGB, in the range of the given ones: 0-255 where nothing else was said. prediction: int32
    [N], what the network takes them for, -1 where its logits are not finite. success: bool [N], whether that is a wrong
    label, or the target of a targeted attack. target: int32 [N], -1 where there was none. logits: float32 [N, classes].
    attack (dict): the attack with all its parameters, as in results.json. seed (int): gives the same images again.
    """
    images: np.ndarray
    prediction: np.ndarray
    success: np.ndarray
    target: np.ndarray
    logits: np.ndarray
    attack: dict
    seed: int


class Sample(NamedTuple):
    """Images of a validation set.

    images: float32 [N,S,S,3], RGB, 0-255, as evaluations show them. labels: int32 [N]. index: int32 [N], their places
    in the set. files: N names.
    """
    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    files: List[str]


class Network:
    """A network with its weights; made by ``sat.load``.

    Networks may be used side by side, each by several threads. ``with`` closes one at its end, as ``close`` does.

    Attributes:
        classes (list of str): names in label order; numbers where none are known. num_classes (int).
        input_size (int): S. settings (Settings): all that the checkpoint and the keywords have decided. in_session
        (InSession): graph and session.
    """

    def __init__(self, load, given):
        self._words = ['--load=' + os.fspath(load), *options.words('load', options.of_loading(), given)]
        args = options.parse(self._words)
        with options.in_words():
            bring(args.load, say)
            refuse_another_network(args)
            self.settings = resolve(args)
            self.in_session = InSession(*parts_of(args))
            names = read_classes(args.load)
        self._view = self._usual_view(given)
        self.num_classes, self.input_size = self.settings.network.num_classes, self._view.input_size
        self.classes = names or (synset_words() if self.num_classes == _IMAGENET else [
            str(k) for k in range(self.num_classes)])
        self._name, self._attackers, self._closed = nets.network_name(args), {}, False

    def __repr__(self):
        return '<{} of {} classes, {size}x{size}{}>'.format(
            self._name, self.num_classes, ', closed' * self._closed, size=self.input_size)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Free the memory of weights and graph; the network answers no more."""
        self._closed = True
        self.in_session.close()

    def predict(self, images, bounds=None, evaluated=None):
        """The network's logits of images.

        Args:
            images: RGB [N,H,W,3], uint8 or float32, or file names. Files, and arrays of another size than the network's
                S, which are uint8, are resized and cropped as in evaluations.
            bounds (tuple): what black and white are in floats, such as (0, 1); None: pixel levels, 0 and 255.
            evaluated (bool): resize and crop also those of size S; False: refuse those of another size.
        Returns:
            np.ndarray: float32 [N, classes], in the order of ``classes``. ``.argmax(1)`` are the predicted labels.
        Raises:
            ValueError, FileNotFoundError: these are no such images; or the network is closed.
        """
        net = self._open()
        taken = self._taken(images, bounds, evaluated)
        return self._over(taken, lambda arrays: net.run({LOGITS: net.clean[LOGITS]}, arrays))[LOGITS]

    def logits_and_gradient(self, images, labels, bounds=None, evaluated=None):
        """Logits, and the gradient of the labels' cross entropy with respect to the images.

        Args:
            images, bounds, evaluated: see ``predict``. labels: int [N].
        Returns:
            np.ndarray: float32 [N, classes]. np.ndarray: float32 [N,S,S,3], for each image of its own cross entropy,
            for a change of 1 in the range of the images.
        """
        net = self._open()
        taken = self._taken(images, bounds, evaluated)
        tensors = {LOGITS: net.clean[LOGITS], 'gradient': net.gradient()}
        found = self._over(taken, lambda arrays: net.run(tensors, arrays), {net.label: self._labels(labels, taken)})
        return found[LOGITS], taken.slopes(found['gradient'])

    def gradient(self, images, weights, bounds=None, evaluated=None):
        """The gradient of the sum of logits times ``weights``, float [N, classes], for each image of its own: what goes
        back through the network. Otherwise as ``logits_and_gradient``."""
        net = self._open()
        taken = self._taken(images, bounds, evaluated)
        weights = np.asarray(weights, np.float32)
        if weights.shape != (len(taken), self.num_classes):
            raise ValueError('weights are [N, classes], here [{}, {}], not {}'.format(
                len(taken), self.num_classes, list(weights.shape)))
        place, gradient = net.pulled_back()
        found = self._over(taken, lambda arrays: net.run({'gradient': gradient}, arrays), {place: weights})
        return taken.slopes(found['gradient'])

    def attack(self, images, labels, attack='pgd', *, epsilon=None, steps=None, step_size=None, norm=None, seed=None,
               index=None, bounds=None, evaluated=None, **others):
        """Images that the network gets wrong, near the given ones.

        Args:
            images, bounds, evaluated: see ``predict``. labels: int [N], the true ones.
            attack (str): one of ``sat.attacks()``.
            epsilon, step_size: in pixel levels, 0-255, in every norm and whatever ``bounds`` are; '8/255' is 8. None,
                and what else is left out: as by ``main.py --eval``.
            steps (int). norm (str): 'Linf', 'L2' or 'L1'.
            seed (int): of random starts and targets. None: another one each time, which is said in the log and kept in
                the result.
            index: int [N], which random numbers are whose: those of image k of an evaluation with the same seed. None:
                0, 1, 2, ...
            others: options of attacks by their names in ``settings/attack.py``: targeted, target, version, early_stop,
                precision, gradient.
        Returns:
            Adversarial.
        Raises:
            ValueError: there is no such attack, or these are no such images or labels. TypeError: no such option.
        """
        net = self._open()
        attacker, slope, precision = self._attacker(dict(
            attack=attack, epsilon=epsilon, steps=steps, step_size=step_size, norm=norm, **others))
        taken = self._taken(images, bounds, evaluated)
        labels = self._labels(labels, taken)
        index = np.arange(len(taken)) if index is None else _whole('index', index, taken, 0, _SEEDS)
        if seed is None:
            seed = secrets.randbelow(_SEEDS)
            say('{}: seed={}'.format(attacker.name, seed))
        seed = int(_whole('seed', seed, None, 0, _SEEDS))
        names = [ADVERSARIAL, PREDICTION, ATTACK_SUCCESS, TARGET, LOGITS]
        found = self._over(taken, lambda arrays: net.attack(attacker, names, arrays, seed, slope, precision),
                           {net.label: labels, net.index: index})
        return Adversarial(taken.outwards(found[ADVERSARIAL]), found[PREDICTION], found[ATTACK_SUCCESS] > 0,
                           found[TARGET], found[LOGITS], attacker.describe(), seed)

    def evaluate(self, folder=None, attack=None, results_dir=None, **others):
        """Judge the network on a validation set, clean and under attack: ``main.py --eval``.

        Args:
            folder (str): the data set, see ``--data``; None: SAT_DATA, else scikit-learn's digits. attack (str): one of
                ``sat.attacks()``. results_dir (str): folder for results.json and per_example.csv; None: no files.
            others: options of attacks and of evaluations: epsilon, steps, step_size, norm, threat_models, subset, seed
                (default: 0) and so on.
        Returns:
            dict: the content of results.json.
        Raises:
            ValueError: there is no such data set or attack, or too many images cannot be read. TypeError: no such
                option.
        """
        self._open()
        given = dict(folder=folder, attack=attack, **others)
        with contextlib.ExitStack() as held:
            place = results_dir or held.enter_context(tempfile.TemporaryDirectory())
            args = self._parse('evaluate', options.of_evaluations(), dict(given, results_dir=place))
            held.enter_context(one_graph_at_a_time)
            held.enter_context(tf.Graph().as_default())
            held.enter_context(options.in_words())
            sources.check(args)
            with contextlib.ExitStack() as kept:
                results = judge.evaluate(args, Ranks(), StopSignal(), kept, show=False)
        return json.loads(json.dumps(dict(results, args=dict(results['args'], results_dir=results_dir))))

    def images(self, folder=None, count=None):
        """Images of a validation set, spread evenly over it.

        Args:
            folder (str): see ``evaluate``. count (int): how many; None: all.
        Returns:
            Sample.
        """
        args = self._parse('images', options.of_evaluations(), dict(folder=folder))
        if count is not None and count < 1:
            raise ValueError('count {}: at least 1'.format(count))
        with options.in_words():
            found = open_images(args, count)
        return Sample(np.ascontiguousarray(found.pixels[..., ::-1]), found.label, found.index, found.files)

    def _usual_view(self, given):
        """How an image is shown of which nothing is known but that it is one."""
        view = self.settings.view
        if given.get('augmentation') or view.augmentation != 'none':
            return view
        return dataclasses.replace(view, augmentation=default_augmentation(
            'images', view.input_size, nets.ARCHITECTURES[self.settings.network.arch].augmentation))

    def _open(self):
        if self._closed:
            raise ValueError('this network is closed; load it again')
        return self.in_session

    def _taken(self, images, bounds, evaluated):
        return pixels.Images(images, self._view, evaluated, bounds)

    def _labels(self, labels, taken):
        return _whole('labels', labels, taken, 0, self.num_classes)

    def _over(self, taken, run, arrays={}):
        """What ``run`` makes of ``arrays``, placeholder to array, and the images, a part after the other."""
        rows, parts = max(1, self.in_session.batch * _AT_ONCE), []
        for begin in range(0, max(1, len(taken)), rows):
            part = slice(begin, begin + rows)
            parts.append(run({self.in_session.pixels: taken.part(part),
                              **{place: array[part] for place, array in arrays.items()}}))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _parse(self, function, known, given):
        return options.parse(self._words + options.words(function, known, given))

    def _attacker(self, given):
        """(attacker, slope, precision) of ``attack``'s arguments, each made once."""
        key = tuple(sorted((name, repr(value)) for name, value in given.items()))
        if key not in self._attackers:
            args = self._parse('attack', options.of_attacks(), given)
            args.seed = 0  # of no use here, where each image's numbers are fed: one graph serves all seeds
            with options.in_words():
                attacker = make_evaluation_attacker(resolve(args))
            self._attackers[key] = attacker, args.attack_gradient, args.attack_precision
        return self._attackers[key]


def _whole(name, values, taken, low, high):
    """int32, whole numbers in [low, high), one for each image where there are images."""
    found = np.asarray(values)
    if found.dtype.kind not in 'iu' or found.shape != (() if taken is None else (len(taken),)):
        raise ValueError('{}: {}, not {} of {}'.format(
            name, 'a whole number' if taken is None else 'a whole number for each of {} images'.format(len(taken)),
            list(found.shape), found.dtype))
    if found.size and not low <= found.min() <= found.max() < high:
        raise ValueError('{}: {} is not in {} to {}'.format(
            name, found.min() if found.min() < low else found.max(), low, high - 1))
    return found.astype(np.int32)
