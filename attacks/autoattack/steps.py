"""How a run of APGD starts and moves in each norm: its step sizes, its momentum and its way back into the ball."""
import numpy as np
import tensorflow.compat.v1 as tf

from attacks.autoattack.geometry import length, project_l1

# Gradients are taken of so many times the loss. PyTorch, which the published code runs on, has numbers down to
# 2 ** -149; TensorFlow takes those below 2 ** -126 for 0, and a cross entropy near 0 would sooner have no gradient.
GRADIENT_SCALE = 2.0 ** 23


class _Steps:
    """A ball around ``image`` [N, D], cut to valid pixels, and the rule for the step sizes of a run in it.

    ``radius`` and ``num_iter`` are numbers or scalars.

    ``adapt`` gives, after point ``number``, the size [N, 1] of the next step, whether it starts from the best point,
    bool [N], and what it hands on to the next call and to ``step``; ``first_size_and_memory`` what it is called with
    first.
    """
    first_step = 2.0  # in radii
    momentum = 0.75  # AA Sec 3.1: share of the gradient step in the step taken
    enough_rises = 0.75  # AA Sec 3.1, rho: share of the iterations between two checks
    # AA Sec 3.1: iterations up to the first check, how many fewer up to a later one, and at least; hundredths of all.
    first_check, sooner, least_check = 22, 3, 6

    def __init__(self, image, radius, num_iter):
        self.image, self.radius, self.num_iter = image, radius, num_iter

    def first_size_and_memory(self, _):
        rows = tf.shape(self.image)[0]
        return [tf.fill([rows, 1], self.first_step * self.radius), tf.zeros([rows]), tf.fill([rows], np.inf),
                tf.zeros([rows]), tf.ones([rows], tf.bool), _part(self.num_iter, self.first_check), tf.constant(-1)]

    def adapt(self, number, size, loss, best, best_loss, rises, loss_before, best_at_check, halved, until_check, since):
        """AA Sec 3.1: halve the step where the loss rose too rarely, or where it has not got anywhere."""
        since += 1  # which the start does not count for
        start, check = tf.equal(number, 0), tf.equal(since, until_check)
        rises += tf.cast(loss > loss_before, tf.float32)
        rarely = rises <= self.enough_rises * tf.cast(since, tf.float32)
        halve = check & (rarely | (~halved & (best_at_check >= best_loss)))
        size = tf.where_v2(halve[:, tf.newaxis], size / 2, size)
        # The published code compares the loss of its first iteration with 0, not with the start's.
        loss_before = tf.where_v2(start, 0.0, loss)
        rises = tf.where_v2(check, 0.0, rises)
        best_at_check = tf.where_v2(check | start, best_loss, best_at_check)
        sooner = tf.maximum(until_check - _part(self.num_iter, self.sooner), _part(self.num_iter, self.least_check))
        return size, halve, [rises, loss_before, best_at_check, tf.where_v2(check, halve, halved),
                             tf.where_v2(check, sooner, until_check), tf.where_v2(check, 0, since)]

    def step(self, number, point, before, gradient, size, *_):
        """The next point [N, D] from ``point``, which ``before`` came before."""
        climbed = self._project(point + size * self._direction(gradient))
        share = tf.where_v2(tf.equal(number, 0), 1.0, self.momentum)
        return self._project(point + share * (climbed - point) + (1 - share) * (point - before))


class LinfSteps(_Steps):
    """See ``_Steps``."""

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


class L2Steps(_Steps):
    """See ``_Steps``."""

    def random_point(self, streams, seeds, stream):
        noise = streams.normal(seeds, stream, self.image.shape[1:])
        return tf.clip_by_value(self.image + self.radius * noise / (length(noise, 'L2') + 1e-12), 0.0, 1.0)

    def _project(self, point):
        move = point - self.image
        size = length(move, 'L2')
        return tf.clip_by_value(self.image + move / (size + 1e-12) * tf.minimum(self.radius, size), 0.0, 1.0)

    def _direction(self, gradient):
        return gradient / (length(gradient, 'L2') + 1e-12 * GRADIENT_SCALE)


class L1Steps(_Steps):
    """See ``_Steps``. Steps go along the gradient's largest elements alone, without momentum (MB Sec 4.1)."""
    first_step = 1.0
    shrink, smallest = 1.5, 0.1  # of the step size

    def __init__(self, image, radius, num_iter, first_share=0.2):
        """``first_share`` (float): of the elements that the first step moves, if not as many as the start has moved."""
        super().__init__(image, radius, num_iter)
        self.first_share = first_share

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


STEPS = {'Linf': LinfSteps, 'L2': L2Steps, 'L1': L1Steps}


def _part(num_iter, hundredths):
    """So many of the iterations, a whole number of at least 1; ``num_iter``: a number or int32 scalar.

    For all numbers what the published code has by int(0.22 * num_iter) and the like.
    """
    return tf.maximum(hundredths * num_iter // 100, 1)
