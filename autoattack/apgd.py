"""APGD: projected gradient descent that sets its own step size (AA Sec 3; in L1, MB Sec 4)."""
import math

import numpy as np
import tensorflow.compat.v1 as tf

from adv_model import predicted_label
from autoattack.attacker import Attacker, choose, ranked_label
from autoattack.geometry import length, project_l1
from autoattack.losses import cross_entropy, dlr, targeted_dlr

LOSSES = {'apgd-ce': cross_entropy, 'apgd-dlr': dlr, 'apgd-t': targeted_dlr}
# Gradients are taken of so many times the loss. PyTorch, which the published code runs on, has numbers down to
# 2 ** -149; TensorFlow takes those below 2 ** -126 for 0, and a cross entropy near 0 would sooner have no gradient.
GRADIENT_SCALE = 2.0 ** 23
LARGER_EPSILON = ((3, 0.3), (2, 0.3), (1, 0.4))  # MB Sec 4.2: multiples of epsilon, and their shares of the iterations


class APGDAttacker(Attacker):
    """APGD on the cross entropy ('apgd-ce'), the DLR loss ('apgd-dlr') or the targeted DLR loss ('apgd-t').

    Args: see ``Attacker``, and
        name (str): one of ``LOSSES``.
        num_iter (int): iterations of a run.
        restarts (int): runs, each from a random point; with 'apgd-t', runs for each target.
        targets (int): of 'apgd-t': the most likely wrong labels of the clean image, one after another.
        larger_epsilon (bool): in L1, begin each run in larger balls (MB Sec 4.2).
        eot_iter (int): passes whose gradients are averaged, for networks that draw random numbers.
    Raises:
        ValueError: as ``Attacker``.
    """

    def __init__(self, name, norm, epsilon, num_classes, num_iter=100, restarts=5, targets=9, larger_epsilon=False,
                 eot_iter=1, seed=0, streams=None):
        self.name = name
        self._check('name', name, name in LOSSES, 'one of {}'.format(', '.join(LOSSES)))
        self.least_classes = {'apgd-ce': 2, 'apgd-dlr': 3, 'apgd-t': 4}[name]
        super().__init__(norm, epsilon, num_classes, seed, streams)
        self._check_counts(num_iter=num_iter, restarts=restarts, targets=targets, eot_iter=eot_iter)
        self._check('larger_epsilon', larger_epsilon, not larger_epsilon or norm == 'L1', 'off but in L1')
        self.targeted = name == 'apgd-t'
        self._check('targets', targets, not self.targeted or targets < num_classes,
                    'below the number of classes, {}'.format(num_classes))
        self.num_iter, self.restarts, self.targets = num_iter, restarts, targets if self.targeted else 0
        self.larger_epsilon, self.eot_iter = larger_epsilon, eot_iter

    def _options(self):
        return {'num_iter': self.num_iter, 'restarts': self.restarts, 'targets': self.targets,
                'larger_epsilon': self.larger_epsilon, 'eot_iter': self.eot_iter}

    def _search(self, victims, flat, standing):
        def attack_once(number, victims):
            target = ranked_label(victims.clean_logits, 1 + number // self.restarts) if self.targeted else None
            result = (self._run_through_balls if self.larger_epsilon else self._run_once)(victims, target, number)
            return result.adv, ~result.right
        return self._in_rounds(victims, flat, standing, self.restarts * max(self.targets, 1), attack_once)

    def _run_once(self, victims, target, number):
        ball = BALLS[self.norm](victims.image, self.radius, self.num_iter)
        start = ball.random_point(self.streams, victims.seeds, self._stream(number))
        return self.run(victims, target, ball, start)

    def _run_through_balls(self, victims, target, number):
        """Runs in balls of shrinking radius, each from the best point of the one before; the last one counts."""
        lengths = [math.ceil(share * self.num_iter) for _, share in LARGER_EPSILON[:-1]]
        lengths.append(max(self.num_iter - sum(lengths), 0))
        radii = tf.constant([factor * self.radius for factor, _ in LARGER_EPSILON], tf.float32)
        noise = self.streams.normal(victims.seeds, self._stream(number), victims.image.shape[1:])
        start = project_l1(victims.image, noise, radii[0])

        def one_ball(index, start, *_):
            ball = L1Ball(victims.image, radii[index], tf.constant(lengths)[index])
            start = project_l1(victims.image, start - victims.image, radii[index])
            result = self.run(victims, target, ball, start, sparse_start=True)
            return index + 1, result.best, result.adv, result.right

        _, best, adv, right = tf.while_loop(
            lambda index, *_: index < len(lengths), one_ball,
            [tf.constant(0), start, start, tf.ones_like(victims.label, tf.bool)], back_prop=False,
            parallel_iterations=1, name='balls')
        return Result(best, None, adv, right)

    def run(self, victims, target, ball, start, sparse_start=False):
        """One run of ``ball.num_iter`` iterations from ``start`` [N, D].

        Args:
            victims (Victims). target (tf.Tensor): int32 [N] for the targeted loss, else None.
            ball: one of ``BALLS``. sparse_start (bool): in L1, take the first step's sparsity from the start.
        Returns:
            Result.
        """
        labels = (victims.label,) if target is None else (victims.label, target)

        def one_point(number, point, before, best, best_gradient, best_loss, adv, right, size, *memory):
            loss, correct, gradient = self._evaluate(victims, labels, point)
            adv = choose(correct, adv, point)
            right &= correct
            better = loss > best_loss
            best, best_gradient = choose(better, point, best), choose(better, gradient, best_gradient)
            best_loss = tf.where_v2(better, loss, best_loss)
            size, restart, memory = ball.adapt(number, size, loss, best, best_loss, *memory)
            point, gradient = choose(restart, best, point), choose(restart, best_gradient, gradient)
            following = ball.step(number, point, before, gradient, size, *memory)
            return [number + 1, following, point, best, best_gradient, best_loss, adv, right, size] + memory

        # Point 0 is the start, point i the one that iteration i - 1 of the published code comes to: so a single copy of
        # the network in the graph sees them all.
        begin = [tf.constant(0), start, start, start, tf.zeros_like(start), tf.fill(tf.shape(victims.label), -np.inf),
                 start, tf.ones_like(victims.label, tf.bool)]
        begin += ball.first_size_and_memory(start if sparse_start else None)
        _, _, _, best, _, best_loss, adv, right, *_ = tf.while_loop(
            lambda number, *_: number <= ball.num_iter, one_point, begin, back_prop=False, parallel_iterations=1,
            name='apgd')
        return Result(best, best_loss, adv, right)

    def _evaluate(self, victims, labels, point):
        """Loss [N], whether the label is right [N], and gradient [N, D] times GRADIENT_SCALE at ``point``."""
        def one_pass(point):
            logits = victims.get_logits(point)
            loss = LOSSES[self.name](logits, *labels)
            gradient, = tf.gradients(loss, point, tf.fill(tf.shape(loss), GRADIENT_SCALE))
            return loss, tf.equal(predicted_label(logits), victims.label), gradient

        if self.eot_iter == 1:
            return one_pass(point)

        def add_pass(number, *summed):
            # Of a copy made in here, since a loop's inside has no gradient to its outside.
            loss, correct, gradient = one_pass(tf.identity(point))
            return number + 1, loss, correct, summed[-1] + gradient

        _, loss, correct, gradient = tf.while_loop(
            lambda number, *_: number < self.eot_iter, add_pass,
            [tf.constant(0), tf.zeros_like(victims.label, tf.float32), tf.ones_like(victims.label, tf.bool),
             tf.zeros_like(point)], back_prop=False, parallel_iterations=1, name='eot')
        return loss, correct, gradient / self.eot_iter


class Result:
    """Of one run; ``best`` [N, D] is the point of the highest loss, ``best_loss`` [N], ``adv`` [N, D] the last one with
    a wrong label, ``right`` bool [N] whether there was none."""

    def __init__(self, best, best_loss, adv, right):
        self.best, self.best_loss, self.adv, self.right = best, best_loss, adv, right


class _Ball:
    """A ball around ``image`` [N, D], cut to valid pixels, and the rule for the step sizes of a run in it.

    ``adapt`` gives, after point ``number``, the size [N, 1] of the next step, whether it starts from the best point,
    bool [N], and what it hands on to the next call and to ``step``; ``first_size_and_memory`` what it is called with
    first.
    """
    first_step = 2.0  # in radii
    momentum = 0.75  # AA Sec 3.1: share of the gradient step in the step taken
    enough_rises = 0.75  # AA Sec 3.1, rho: share of the iterations between two checks

    def __init__(self, image, radius, num_iter):
        self.image, self.radius, self.num_iter = image, radius, num_iter

    def first_size_and_memory(self, _):
        rows = tf.shape(self.image)[0]
        return [tf.fill([rows, 1], self.first_step * self.radius), tf.zeros([rows]), tf.fill([rows], np.inf),
                tf.zeros([rows]), tf.ones([rows], tf.bool)]

    def adapt(self, number, size, loss, best, best_loss, rises, loss_before, best_at_check, halved):
        """AA Sec 3.1: halve the step where the loss rose too rarely, or where it has not got anywhere."""
        since_check = tf.constant(_checkpoints(self.num_iter))[number]
        start, check = tf.equal(number, 0), since_check > 0
        rises += tf.cast(loss > loss_before, tf.float32)
        rarely = rises <= self.enough_rises * tf.cast(since_check, tf.float32)
        halve = check & (rarely | (~halved & (best_at_check >= best_loss)))
        size = tf.where_v2(halve[:, tf.newaxis], size / 2, size)
        # The published code compares the loss of its first iteration with 0, not with the start's.
        loss_before = tf.where_v2(start, 0.0, loss)
        rises = tf.where_v2(check, 0.0, rises)
        best_at_check = tf.where_v2(check | start, best_loss, best_at_check)
        return size, halve, [rises, loss_before, best_at_check, tf.where_v2(check, halve, halved)]

    def step(self, number, point, before, gradient, size, *_):
        """The next point [N, D] from ``point``, which ``before`` came before."""
        climbed = self._project(point + size * self._direction(gradient))
        share = tf.where_v2(tf.equal(number, 0), 1.0, self.momentum)
        return self._project(point + share * (climbed - point) + (1 - share) * (point - before))


class LinfBall(_Ball):
    """See ``_Ball``."""

    def __init__(self, image, radius, num_iter):
        super().__init__(image, radius, num_iter)
        # Both ends are valid pixels, also around a value that is not.
        self._lower, self._upper = (tf.clip_by_value(image + end, 0.0, 1.0) for end in (-radius, radius))

    def random_point(self, streams, seeds, stream):
        noise = 2 * streams.uniform(seeds, stream, self.image.shape[1:]) - 1
        return tf.clip_by_value(self.image + self.radius * noise / (length(noise, 'Linf') + 1e-12), 0.0, 1.0)

    def _project(self, point):
        return tf.minimum(tf.maximum(point, self._lower), self._upper)

    def _direction(self, gradient):
        return tf.sign(gradient)


class L2Ball(_Ball):
    """See ``_Ball``."""

    def random_point(self, streams, seeds, stream):
        noise = streams.normal(seeds, stream, self.image.shape[1:])
        return tf.clip_by_value(self.image + self.radius * noise / (length(noise, 'L2') + 1e-12), 0.0, 1.0)

    def _project(self, point):
        move = point - self.image
        size = length(move, 'L2')
        return tf.clip_by_value(self.image + move / (size + 1e-12) * tf.minimum(self.radius, size), 0.0, 1.0)

    def _direction(self, gradient):
        return gradient / (length(gradient, 'L2') + 1e-12 * GRADIENT_SCALE)


class L1Ball(_Ball):
    """See ``_Ball``. Steps go along the gradient's largest elements alone, without momentum (MB Sec 4.1)."""
    first_step = 1.0
    first_share = 0.2  # of the elements
    shrink, smallest = 1.5, 0.1  # of the step size

    def random_point(self, streams, seeds, stream):
        return project_l1(self.image, streams.normal(seeds, stream, self.image.shape[1:]), self.radius)

    def first_size_and_memory(self, start):
        rows = tf.shape(self.image)[0]
        changed = self._changed(start) if start is not None else tf.fill([rows], float(self._elements))
        share = self._share(changed) if start is not None else tf.fill([rows], self.first_share)
        return [tf.fill([rows, 1], self.first_step * self.radius), share, changed]

    def adapt(self, number, size, loss, best, best_loss, share, changed_before):
        """MB Sec 4.1: as sparse as the best point is; a full step where that became much sparser, else a shorter."""
        every = tf.maximum(self.num_iter // 25, 1)  # int(0.04 * num_iter) of the published code, for all numbers
        check = (number > 0) & tf.equal(number % every, 0)
        changed = self._changed(best)
        sparser = check & (changed / changed_before < 0.95)
        adapted = tf.where_v2(sparser[:, tf.newaxis], self.radius, size / self.shrink)
        adapted = tf.clip_by_value(adapted, self.smallest * self.radius, self.radius)
        return (tf.where_v2(check, adapted, size), sparser,
                [tf.where_v2(check, self._share(changed), share), tf.where_v2(check, changed, changed_before)])

    def step(self, number, point, before, gradient, size, share, _):
        steepness = tf.abs(gradient)
        left = tf.clip_by_value((1 - share) * self._elements, 0.0, self._elements - 1.0)
        smallest = tf.gather(tf.sort(steepness, axis=1), tf.cast(left, tf.int32), axis=1, batch_dims=1)
        signs = tf.where_v2(steepness >= smallest[:, tf.newaxis], tf.sign(gradient), 0.0)
        climbed = point + size * signs / (length(signs, 'L1') + 1e-10)
        return project_l1(self.image, climbed - self.image, self.radius)

    @property
    def _elements(self):
        return int(self.image.shape[1])

    def _changed(self, point):
        return tf.math.count_nonzero(point - self.image, axis=1, dtype=tf.float32)

    def _share(self, changed):
        return changed / self._elements / 1.5


BALLS = {'Linf': LinfBall, 'L2': L2Ball, 'L1': L1Ball}


def _checkpoints(num_iter):
    """Iterations since the last check, of each point at which the step size is judged, else 0 (AA Sec 3.1)."""
    every, least, fewer = (max(int(share * num_iter), 1) for share in (0.22, 0.06, 0.03))
    lengths, since = [0], 0
    for _ in range(num_iter):
        since += 1
        lengths.append(since if since == every else 0)
        if since == every:
            since, every = 0, max(every - fewer, least)
    return np.array(lengths, np.int32)
