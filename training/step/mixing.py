"""The batch stage: what becomes of a whole batch before a step attacks it and takes it in parts.

A stage is a function (image uint8 [N,S,S,3], label int32 [N], seeds int64 [N,2]) -> (image, truth). The image stays as
it is or becomes float32 in the same units, 0-255, some of it perhaps outside of that range. ``truth`` is what the
attack is told and the loss is of: labels int32 [N], or float32 [N,classes], of each image a distribution over the
classes. Labels stay labels: SAT's attack leads away from the label itself, and its loss alone is of smoothed ones. A
stage that mixes smooths its distributions itself. Random numbers come from ``seeds``, an image's from its own.
"""
import dataclasses

import tensorflow.compat.v1 as tf

from seeds import MIXING, MIXING_SHARE, stage_seeds
from training.step.erasing import erase_randomly


def as_it_is(image, label, seeds):
    """The stage of the recipes that mix nothing (SAT, FD and EN releases)."""
    return image, label


def smoothed(label, classes, smoothing):
    """Labels int [N] as distributions [N,classes]: onehot * (1 - s) + s / classes (1H Sec 5.1, s = 0.1)."""
    return tf.one_hot(label, classes, on_value=1.0, off_value=0.0) * (1 - smoothing) + smoothing / int(classes)


@dataclasses.dataclass(frozen=True)
class MixedBatch:
    """A stage: rectangles of noise; then mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019) with the batch reversed.

    One draw decides for the batch: which of the two, each as likely where both are on, and the images' part in it.

    Attributes:
        classes (int): number of labels. smoothing (float): of the labels that are mixed.
        erasing (float): probability that an image loses a rectangle.
        mixup, cutmix (float): the part of an image is drawn from the beta distribution of this number twice; 0 is off.
    """
    classes: int
    smoothing: float
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, image, label, seeds):
        with tf.name_scope('batch_stage'):
            image = tf.cast(image, tf.float32)
            if self.erasing:
                image = erase_randomly(image, seeds, self.erasing)
            if not (self.mixup or self.cutmix):
                return image, label
            parts, part = self._parts(seeds[0], int(image.shape[1]))
            truth = smoothed(label, self.classes, self.smoothing)
            return with_reversed(image, parts), with_reversed(truth, part)

    def _parts(self, seed, side):
        """The part that an image has in each of its pixels, [S,S,1], and in its truth, a scalar."""
        # Numbers of a batch, which no GPU need be asked for.
        with tf.device('/cpu:0'):
            which, x, y = tf.unstack(tf.random.stateless_uniform([3], stage_seeds(seed, MIXING)))
            cuts = which < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
            part = self._draw_part(seed, tf.where_v2(cuts, self.cutmix, self.mixup))
            left, right, top, bottom = rectangle(part, x, y, side)
            row, column = tf.range(side)[:, tf.newaxis], tf.range(side)
            replaced = (row >= top) & (row < bottom) & (column >= left) & (column < right)
            parts = tf.where_v2(cuts, tf.cast(~replaced, tf.float32), part)
            kept = 1 - tf.cast((right - left) * (bottom - top), tf.float32) / side ** 2
            return parts[:, :, tf.newaxis], tf.where_v2(cuts, kept, part)

    @staticmethod
    def _draw_part(seed, shape):
        """A number of the beta distribution of ``shape`` twice."""
        first, second = tf.unstack(tf.random.stateless_gamma([2], stage_seeds(seed, MIXING_SHARE), shape))
        return first / (first + second)


def with_reversed(batch, part):
    """``part`` of each row of ``batch`` and the rest of its partner's, the rows being paired from both ends."""
    return part * batch + (1 - part) * tf.reverse(batch, [0])


def rectangle(part, x, y, side):
    """What CutMix replaces of an image of which about ``part`` stays (Yun et al. 2019): left, right, top and bottom,
    ends excluded. Its centre is anywhere, drawn as ``x`` and ``y`` in [0, 1), and it is cut at the image's edges."""
    half = tf.cast(side * tf.sqrt(1 - part), tf.int32) // 2
    ends = []
    for centre in (tf.cast(position * side, tf.int32) for position in (x, y)):
        ends += [tf.maximum(centre - half, 0), tf.minimum(centre + half, side)]
    return ends


def make_stage(update, classes):
    """The batch stage that a training asks for.

    Args:
        update (settings.update.Update). classes (int): number of labels.
    """
    if not (update.mixup or update.cutmix or update.random_erasing):
        return as_it_is
    return MixedBatch(classes, update.label_smoothing, update.random_erasing, update.mixup, update.cutmix)
