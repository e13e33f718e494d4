"""A network with its weights, and the images that it is judged on."""
import dataclasses
from typing import List, NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import nets
from adv_model import PREDICTION, add_metrics, image_preprocess
from attacks.attacker import Lengths
from attacks.autoattack.losses import margin
from attacks.threat import PIXEL, no_target
from commands import sources
from commands.judge import validation_batches
from commands.networks import matched, open_session
from ranks.launched import Ranks
from seeds import EVALUATION_STREAM, image_seeds
from settings.resolve import resolve
from smooth_activations import backward_slope
from weights.classes import read_classes
from weights.find import open_checkpoint


@dataclasses.dataclass(frozen=True)
class Images:
    """Some images of a validation set, as a network is to see them.

    pixels: float32 [N,S,S,3], BGR, 0-255. label: int32 [N]. index: int32 [N], places in the whole set, from which the
    random starts of attacks come, as in an evaluation of the set. files: N names. classes: names by label.
    """
    pixels: np.ndarray
    label: np.ndarray
    index: np.ndarray
    files: List[str]
    classes: List[str]

    def __len__(self):
        return len(self.label)

    def part(self, rows):
        """The images of ``rows`` (int array)."""
        return Images(self.pixels[rows], self.label[rows], self.index[rows], [self.files[row] for row in rows],
                      self.classes)

    def moved_to(self, pixels):
        """The same images with other pixels."""
        return dataclasses.replace(self, pixels=pixels)


class Outcome(NamedTuple):
    """What a network says of images, attacked or not; arrays over the images.

    prediction: int32, -1 where the logits are not finite. standing: bool, whether it is the true label. loss: cross
    entropy of the true label. margin: its logit less the largest other one. adv: float32 [N,S,S,3], the attacked images
    as ``Images.pixels``, or None.
    """
    prediction: np.ndarray
    standing: np.ndarray
    loss: np.ndarray
    margin: np.ndarray
    adv: Optional[np.ndarray] = None


def open_images(args, count):
    """``count`` images, or all there are, spread evenly over the validation set, whose order is often by class.

    Args:
        args: resolved flags of ``main.py --eval``.
    Raises:
        ValueError: no data set, or none of the images can be read.
    """
    dataset = sources.open_images(args, 'val', read_classes(args.load))
    total = len(dataset.files)
    positions = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int32))
    batches = list(validation_batches(resolve(args), dataset, Ranks(), positions))
    pixels, label, index = (np.concatenate(column) for column in zip(*batches))
    read = index >= 0
    if not read.any():
        raise ValueError("none of {} images of '{}' could be read".format(len(positions), dataset.name))
    return Images(pixels[read].astype(np.float32), label[read], index[read],
                  [dataset.files[k] for k in index[read]], list(dataset.classes))


def to_pixels(image, data_format, channels):
    """Undo ``image_preprocess``: float32 [N,S,S,3], BGR, 0-255, of images as a network takes them."""
    if data_format == 'NCHW':
        image = tf.transpose(image, [0, 2, 3, 1])
    image = (image + 1.0) / PIXEL
    return tf.reverse(image, [3]) if channels == 'RGB' else image


class Subject:
    """A network in a graph and a session of its own.

    Args:
        name (str): what it is called in tables.
        model (AdvImageNetModel). batch (int): images in one pass.
        make_session: () -> tf.Session on the current graph, with the weights in it.
        attack_gradient (str): see ``AdvImageNetModel.get_inference_func``.
    """

    def __init__(self, name, model, batch, make_session=tf.Session, attack_gradient=None):
        self.name, self.model, self.batch, self.attack_gradient = name, model, batch, attack_gradient
        self._attacks = {}
        side = model.image_shape
        self._graph = tf.Graph()
        with self._graph.as_default(), TowerContext('', is_training=False):
            self._pixels = tf.placeholder(tf.float32, [None, side, side, 3])
            self._label = tf.placeholder(tf.int32, [None])
            self._index = tf.placeholder(tf.int32, [None])
            self._lengths = Lengths.placeholders()
            self._image = image_preprocess(self._pixels, model.data_format, model.channels)
            self._judged = self._judge(self._image)
            self._zero_gradient = tf.reduce_all(tf.equal(self._input_gradient(), 0), axis=[1, 2, 3])
            self._session = make_session()

    @classmethod
    def open(cls, name, args):
        """The network and weights of resolved flags of ``main.py --eval``.

        Raises:
            ValueError: the checkpoint does not fit the network.
        """
        values = open_checkpoint(args.load)
        return cls(name, nets.build(resolve(args)), args.batch,
                   lambda: open_session(Ranks(), matched(args, values)), args.attack_gradient)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session.close()

    def _judge(self, image):
        logits = self.model.get_logits(image)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=self._label)
        return {'prediction': add_metrics(logits, self._label, no_target(self._label))[PREDICTION], 'loss': loss,
                'margin': margin(logits, self._label)}

    def _input_gradient(self):
        """Of the loss, as an attacker sees it."""
        with backward_slope(self.attack_gradient):
            loss = self._judge(self._image)['loss']
        gradient, = tf.gradients(tf.reduce_sum(loss), self._image)
        return tf.zeros_like(self._image) if gradient is None else gradient

    def judge(self, images, attacker=None, keep=False):
        """Look at ``images``, attacked by ``attacker`` (None: as they are).

        Args:
            attacker (Attacker).
            keep (bool): keep the attacked images.
        Returns:
            Outcome.
        """
        fetches, feed = (self._judged, {}) if attacker is None else self._attack(attacker)
        found = self._run({name: fetches[name] for name in fetches if keep or name != 'adv'}, images, feed)
        return Outcome(standing=found['prediction'] == images.label, **found)

    def zero_gradients(self, images):
        """bool [N]: whether the loss's gradient is exactly zero in all of an image."""
        return self._run({'zero': self._zero_gradient}, images, {})['zero']

    def _run(self, fetches, images, feed):
        parts = []
        for begin in range(0, len(images), self.batch):
            rows = slice(begin, begin + self.batch)
            batch = {self._pixels: images.pixels[rows], self._label: images.label[rows],
                     self._index: images.index[rows]}
            parts.append(self._session.run(fetches, {**feed, **batch}))
        return {name: np.concatenate([part[name] for part in parts]) for name in fetches}

    def _attack(self, attacker):
        """The tensors of an attack, and what to feed for its lengths; one graph serves all of these."""
        key = attacker.graph_key
        if key not in self._attacks:
            self._attacks[key] = self._build_attack(attacker)
        return self._attacks[key], self._lengths.feed(attacker.lengths)

    def _build_attack(self, attacker):
        with self._graph.as_default(), TowerContext('', is_training=False):
            seeds = image_seeds(self.model.seed, EVALUATION_STREAM, self._index)
            adv = self.model.attack(attacker, self._image, self._label, seeds, self.attack_gradient,
                                    lengths=attacker.lengths and self._lengths).image
            pixels = to_pixels(adv, self.model.data_format, self.model.channels)
            return dict(self._judge(adv), adv=pixels)
