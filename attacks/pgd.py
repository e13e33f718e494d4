"""Projected gradient descent, and no attack at all."""
import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

from attacks.balls import BALLS
from attacks.early_stop import until_success
from attacks.threat import ANY_STEP, LAST_STEP, NO_TARGET, PIXEL, attack_succeeded, predicted_label
from seeds import EVALUATION_STREAM, FROM_CLEAN, START, START_LENGTH, TARGET_DRAW, draw_each, image_seeds
from smooth_activations import tensorflow_ops_only


class NoOpAttacker:
    """The attacker of clean training and clean evaluation: it changes nothing."""
    num_iter = 0
    name = 'none'

    def describe(self):
        """As ``PGDAttacker.describe``: an attack of no length."""
        return {'name': self.name, 'norm': 'Linf', 'epsilon': 0.0, 'step_size': 0.0, 'num_iter': self.num_iter,
                'targeted': False}

    def attack(self, image, label, get_logits, seeds=None):
        """Return ``image`` as it is, and NO_TARGET [N] as there is no target."""
        return image, tf.fill(tf.shape(label)[:1], NO_TARGET)


class PGDAttacker:
    """Projected gradient descent in a ball around the image (Madry et al. 2017; FD Sec 6, SAT Sec 3).

    Untargeted, it raises the cross entropy of the true label (SAT); targeted, it lowers that of a wrong one: of a label
    drawn uniformly (FD Sec 6.1), or of the one that the network finds least likely on the clean image (Kurakin et al.
    2017).

    Args:
        num_iter (int): steps, at least 1.
        epsilon (float): radius in pixel levels, 0-255. step_size (float): of one step, in pixel levels.
        targeted (bool): see above.
        random_start (bool): start from a point drawn uniformly from the ball, cut to valid pixels, else from the
            clean image.
        prob_start_from_clean (float): probability, for each image, of starting from the clean image all the same.
        num_classes (int): number of labels that a target is drawn from.
        enlarge_small_steps (bool): raise step_size to epsilon / num_iter where it is smaller, as the releases do, so
            that the attack can cross the ball; said in the log. Off: step_size is taken as it is.
        seed (int): for the draws of images that come without ``seeds``.
        norm (str): one of ``BALLS``, in which lengths are measured.
        least_likely (bool): of a targeted attack, see above.
        xla (bool): let XLA compile a step as a whole, as the FD release's --use-fp16xla does.
        early_stop (bool): leave each image where the attack first succeeds on it, and take no more steps there.
    Raises:
        ValueError: a number out of range; names it.
    """

    def __init__(self, num_iter, epsilon, step_size, targeted=False, random_start=True, prob_start_from_clean=0.0,
                 num_classes=1000, enlarge_small_steps=True, seed=0, norm='Linf', least_likely=False, xla=False,
                 early_stop=False):
        for name, value, valid, wanted in (
                ('norm', norm, norm in BALLS, 'one of {}'.format(', '.join(BALLS))),
                ('num_iter', num_iter, num_iter == int(num_iter) and num_iter >= 1, 'a whole number above 0'),
                ('epsilon', epsilon, 0 < epsilon <= 255 or (norm != 'Linf' and 0 < epsilon < float('inf')),
                 'a radius in (0, 255] pixel levels' if norm == 'Linf' else 'a positive number of pixel levels'),
                ('step_size', step_size, step_size > 0, 'a positive number of pixel levels'),
                ('prob_start_from_clean', prob_start_from_clean, 0 <= prob_start_from_clean <= 1, 'a probability'),
                ('num_classes', num_classes, num_classes >= 2, 'at least 2')):
            if not valid:
                raise ValueError('{}: {} must be {}, not {}'.format(type(self).__name__, name, wanted, value))
        self.num_iter = int(num_iter)
        self.epsilon = float(epsilon)
        self.step_size = float(step_size)
        self.norm = norm
        if enlarge_small_steps and self.step_size < self.epsilon / self.num_iter:
            self.step_size = self.epsilon / self.num_iter
            logger.warning('{}: step size raised from {:g} to epsilon / steps = {:.4g} pixel levels'.format(
                self.name, step_size, self.step_size))
        self.targeted = targeted
        self.least_likely = least_likely
        self.random_start = random_start
        self.prob_start_from_clean = prob_start_from_clean
        self.num_classes = num_classes
        self.seed = seed
        self.xla = xla
        self.early_stop = early_stop

    @property
    def name(self):
        return self._in_norm('PGD-{}'.format(self.num_iter))

    def _in_norm(self, name):
        return name if self.norm == 'Linf' else '{}-{}'.format(name, self.norm)

    @property
    def verdict(self):
        """What the image that the attack returns stands for."""
        return ANY_STEP if self.early_stop else LAST_STEP

    def describe(self):
        """The attack's parameters, JSON-ready; lengths in pixel levels, 0-255."""
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'step_size': self.step_size,
                'num_iter': self.num_iter, 'targeted': self.targeted,
                'target': ('least-likely' if self.least_likely else 'random') if self.targeted else 'none',
                'random_start': self.random_start, 'prob_start_from_clean': self.prob_start_from_clean,
                'early_stop': self.early_stop}

    def attack(self, image, label, get_logits, seeds=None):
        """Attack a batch.

        Args:
            image (tf.Tensor): float32 [N,H,W,3] or [N,3,H,W] in [-1, 1].
            label (tf.Tensor): int [N], the true labels.
            get_logits: image -> logits [N, classes], differentiable.
            seeds (tf.Tensor): int64 [N, 2] from ``image_seeds``; without them every image has the seed of its place
                in the batch, the same in each run of the graph.
        Returns:
            adv (tf.Tensor): like ``image``, within epsilon of it and in [-1, 1].
            target (tf.Tensor): int32 [N], NO_TARGET for an untargeted attack.
        """
        return self.follow(image, label, get_logits, seeds)[:2]

    def follow(self, image, label, get_logits, seeds=None):
        """Attack a batch and watch it.

        Args: see ``attack``.
        Returns:
            adv, target: see ``attack``.
            left_success (tf.Tensor): bool [N], whether the attack had succeeded at a point that it then left.
        """
        with tf.name_scope('pgd'):
            if seeds is None:
                seeds = image_seeds(self.seed, EVALUATION_STREAM, tf.range(tf.shape(image)[0]))
            label = tf.cast(label, tf.int32)
            target = self._target(image, label, get_logits, seeds)
            step = self.step_size * PIXEL

            def one_step(ball, label, target, adv, *memory):
                """Whether the attack has succeeded at ``adv``, and the next point and memory."""
                logits = get_logits(adv)
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                    logits=logits, labels=target if self.targeted else label)
                gradient, = tf.gradients(tf.reduce_sum(-losses if self.targeted else losses), adv)
                gradient, *memory = self._remember(gradient, *memory)
                moved = ball.project(adv + step * ball.steepest(gradient, adv))
                return attack_succeeded(predicted_label(logits), label, target), [moved] + memory

            ball = self._ball(image)
            start = self._start(image, ball, seeds)
            state, left_success = [start] + self._memory(start), tf.zeros_like(label, tf.bool)
            if self.early_stop:
                adv, *_ = until_success(lambda image, *rest: one_step(self._ball(image), *rest),
                                        [image, label, target], state, self.num_iter)
            else:
                def one_step_of_all(left_success, *state):
                    succeeded, *state = self._compiled(
                        lambda *state: tf.nest.flatten(one_step(ball, label, target, *state)), state)
                    return [left_success | succeeded] + state

                left_success, adv, *_ = tf.while_loop(
                    lambda *_: True, one_step_of_all, [left_success] + state, maximum_iterations=self.num_iter,
                    back_prop=False, parallel_iterations=1, return_same_structure=True, name='attack_loop')
            adv.set_shape(image.shape)
            return adv, target, left_success

    def _ball(self, image):
        return BALLS[self.norm](image, self.epsilon * PIXEL)

    def _compiled(self, function, inputs):
        """``function(*inputs)``, a list of tensors, by XLA if that is asked for."""
        if not self.xla:
            return function(*inputs)
        with tensorflow_ops_only():
            return tf.xla.experimental.compile(function, list(inputs))

    def _memory(self, start):
        """What steps hand on beside the image, at first: a list of tensors."""
        return []

    def _remember(self, gradient):
        """The gradient that a step takes, and the memory after it, from the loss's gradient and the memory before."""
        return [gradient]

    def _target(self, image, label, get_logits, seeds):
        if not self.targeted:
            return tf.fill(tf.shape(label), NO_TARGET)
        if not self.least_likely:
            return self._draw_target(label, seeds)
        # The least likely of the wrong ones.
        logits = get_logits(image)
        logits = tf.where_v2(tf.one_hot(label, tf.shape(logits)[1], True, False), np.inf, logits)
        return tf.stop_gradient(tf.argmin(logits, axis=1, output_type=tf.int32))

    def _draw_target(self, label, seeds):
        """A uniformly random wrong label, int32 [N] (FD Sec 6.1)."""
        u = draw_each(seeds, TARGET_DRAW, lambda s: tf.random.stateless_uniform([], s))
        offset = 1 + tf.minimum(tf.cast(u * (self.num_classes - 1), tf.int32), self.num_classes - 2)
        return tf.floormod(label + offset, self.num_classes)

    def _start(self, image, ball, seeds):
        if not self.random_start:
            return tf.identity(image)
        shape = tf.shape(image)[1:]

        def draw(of_shape):
            noise = draw_each(seeds, START, lambda s: of_shape(shape, s))
            noise.set_shape(image.shape)
            return noise
        # Inside the valid range from the first gradient on (the releases clip only after it).
        start = ball.start(draw, lambda: draw_each(seeds, START_LENGTH, lambda s: tf.random.stateless_uniform([], s)))
        if self.prob_start_from_clean > 0:
            u = draw_each(seeds, FROM_CLEAN, lambda s: tf.random.stateless_uniform([], s))
            from_clean = tf.reshape(u < self.prob_start_from_clean, [-1, 1, 1, 1])
            start = tf.where_v2(from_clean, image, start)
        return start
