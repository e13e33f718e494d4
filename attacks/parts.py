"""What attacks on a loss's gradient are put together from, beside the balls: aims, losses, gradient memories, starts,
and the rule for a step.

Parts of a kind are called alike, so that each goes with all others. Attacks of equal parts share a graph: one with
options is a frozen object rather than a function made for each attack anew. ``describe`` gives what a part adds to the
description of its attack.
"""
import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow.compat.v1 as tf

import draws
from attacks.attacker import check
from attacks.threat import cross_entropy, label_of, no_target, right_classes
from seeds import FROM_CLEAN, START, START_LENGTH, TARGET_DRAW, purpose_seeds


def _number(seeds, purpose):
    """float32 [N], uniform in [0, 1)."""
    return draws.uniform(purpose_seeds(seeds, purpose), [])


# Aims: (image, truth, get_logits, seeds) -> target, int32 [N].

class Untargeted:
    """Away from what is true."""
    targeted, word = False, 'none'

    def __call__(self, image, truth, get_logits, seeds):
        return no_target(truth)


@dataclasses.dataclass(frozen=True)
class RandomTarget:
    """A wrong label, drawn uniformly from ``num_classes`` (FD Sec 6.1)."""
    num_classes: int
    targeted: ClassVar[bool] = True
    word: ClassVar[str] = 'random'

    def __call__(self, image, truth, get_logits, seeds):
        u = _number(seeds, TARGET_DRAW)
        offset = 1 + tf.minimum(tf.cast(u * (self.num_classes - 1), tf.int32), self.num_classes - 2)
        return tf.floormod(label_of(truth) + offset, self.num_classes)


class LeastLikely:
    """The wrong label that the network finds least likely on the clean image (Kurakin et al. 2017)."""
    targeted, word = True, 'least-likely'

    def __call__(self, image, truth, get_logits, seeds):
        logits = get_logits(image)
        logits = tf.where_v2(right_classes(truth, tf.shape(logits)[1]), np.inf, logits)
        return tf.stop_gradient(tf.argmin(logits, axis=1, output_type=tf.int32))


UNTARGETED, LEAST_LIKELY = Untargeted(), LeastLikely()
TARGETS = (Untargeted.word, RandomTarget.word, LeastLikely.word)


# Losses: (logits, truth, target) -> what the attack raises, float32 [N].

def loss_of_truth(logits, truth, target):
    """The cross entropy with the truth."""
    return cross_entropy(logits, truth)


def likelihood_of_target(logits, truth, target):
    """Minus the cross entropy of the target."""
    return -cross_entropy(logits, target)


# Gradient memories: what steps hand on beside the image. ``begin``: start -> list of tensors; ``take``: (gradient,
# *memory) -> the gradient that a step takes, and the memory after it.

class NoMemory:
    """Each step goes by its own gradient."""

    def begin(self, start):
        return []

    def take(self, gradient):
        return gradient, []

    def describe(self):
        return {}


@dataclasses.dataclass(frozen=True)
class Momentum:
    """A sum of all gradients so far, each with a mean absolute value of 1 (Dong et al. 2018).

    decay (float): of the sum, before a gradient is added.
    """
    decay: float = 1.0  # Dong et al. 2018 Sec 4.1

    def begin(self, start):
        return [tf.zeros_like(start)]

    def take(self, gradient, total):
        size = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
        total = self.decay * total + tf.math.divide_no_nan(gradient, size)
        return total, [total]

    def describe(self):
        return {'decay': self.decay}


NO_MEMORY = NoMemory()


# Starts: (image, ball, seeds) -> image.

class CleanStart:
    """The clean image."""

    def __call__(self, image, ball, seeds):
        return tf.identity(image)

    def describe(self):
        return {'random_start': False, 'prob_start_from_clean': 0.0}


@dataclasses.dataclass(frozen=True)
class UniformStart:
    """A point drawn uniformly from the ball, cut to valid pixels.

    prob_start_from_clean (float): probability, for each image, of starting from the clean image all the same.
    """
    prob_start_from_clean: float = 0.0

    def __post_init__(self):
        check('UniformStart', 'prob_start_from_clean', self.prob_start_from_clean,
              0 <= self.prob_start_from_clean <= 1, 'a probability')

    def __call__(self, image, ball, seeds):
        shape = tf.shape(image)[1:]

        def draw(numbers, *arguments):
            noise = numbers(purpose_seeds(seeds, START), shape, *arguments)
            noise.set_shape(image.shape)
            return noise
        # Inside the valid range from the first gradient on (the releases clip only after it).
        start = ball.start(draw, lambda: _number(seeds, START_LENGTH))
        if self.prob_start_from_clean > 0:
            from_clean = tf.reshape(_number(seeds, FROM_CLEAN) < self.prob_start_from_clean, [-1, 1, 1, 1])
            start = tf.where_v2(from_clean, image, start)
        return start

    def describe(self):
        return {'random_start': True, 'prob_start_from_clean': self.prob_start_from_clean}


CLEAN_START = CleanStart()


# Steps: (ball, adv, gradient, step size) -> image.

def steepest_step(ball, adv, gradient, step_size):
    """In the ball's norm the direction that climbs most, and back into the ball."""
    return ball.project(adv + step_size * ball.steepest(gradient, adv))
