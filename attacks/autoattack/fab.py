"""FAB: the smallest change that makes a label wrong, found along the boundary (Croce and Hein 2020, "Minimally
distorted adversarial examples with a fast adaptive boundary attack")."""
import numpy as np
import tensorflow.compat.v1 as tf

from attacks.autoattack.attacker import Attacker, choose, ranked_label
from attacks.autoattack.geometry import dual_length, length, move_to_plane
from attacks.autoattack.losses import logit_of
from attacks.threat import predicted_label


class FABAttacker(Attacker):
    """FAB towards the nearest of all other labels ('fab') or towards one label after another ('fab-t').

    An image is broken if the change found is not above epsilon. 'fab' takes as many backward passes an iteration as
    there are classes.

    Args: see ``Attacker``, and
        name (str): 'fab' or 'fab-t'.
        num_iter (int): iterations of a run.
        restarts (int): runs, the first one from the clean image, each other one from a random point; with 'fab-t' runs
            for each target.
        targets (int): of 'fab-t': the most likely wrong labels of the clean image.
    Raises:
        ValueError: as ``Attacker``.
    """
    most_bias = 0.1  # FAB Sec 3.3, alpha_max: towards the clean image's own way to the boundary
    overshoot = 1.05  # eta
    way_back = 0.9  # beta

    def __init__(self, name, norm, epsilon, num_classes, num_iter=100, restarts=1, targets=9, seed=0, streams=None):
        self.name = name
        self._check('name', name, name in ('fab', 'fab-t'), 'fab or fab-t')
        super().__init__(norm, epsilon, num_classes, seed, streams)
        self._check_counts(num_iter=num_iter, restarts=restarts, targets=targets)
        self.targeted = name == 'fab-t'
        self._check('targets', targets, not self.targeted or targets < num_classes,
                    'below the number of classes, {}'.format(num_classes))
        self.num_iter, self.restarts, self.targets = num_iter, restarts, targets if self.targeted else 0

    def _options(self):
        return {'num_iter': self.num_iter, 'restarts': self.restarts, 'targets': self.targets}

    def _search(self, victims, flat, standing):
        def attack_once(number, victims):
            target = ranked_label(victims.clean_logits, 1 + number // self.restarts) if self.targeted else None
            start = victims.image
            if self.restarts > 1:
                start = tf.cond(tf.equal(number % self.restarts, 0), lambda: victims.image,
                                lambda: self._random_point(victims, number))
            found, distance = self.run(victims, target, start)
            return found, distance <= self.radius
        return self._in_rounds(victims, flat, standing, self.restarts * max(self.targets, 1), attack_once)

    def _random_point(self, victims, number):
        """Half an epsilon from the clean image."""
        shape, stream = victims.image.shape[1:], self._stream(number)
        if self.norm == 'Linf':
            noise = 2 * self.streams.uniform(victims.seeds, stream, shape) - 1
        else:
            noise = self.streams.normal(victims.seeds, stream, shape)
        return tf.clip_by_value(victims.image + self.radius / 2 * noise / length(noise, self.norm), 0.0, 1.0)

    def run(self, victims, target, start):
        """One run from ``start`` [N, D]; ``target``: int32 [N], or None for the nearest label.

        Returns:
            point (tf.Tensor): float32 [N, D], the nearest one with a wrong label.
            distance (tf.Tensor): float32 [N], of it from the clean image; infinite where there is none.
        """
        def one_point(number, point, found, distance):
            lead, slope = self._nearest_plane(victims, point) if target is None else self._plane(victims, point, target)
            point = self._approach(victims.image, point, lead, slope)
            wrong = tf.not_equal(predicted_label(victims.get_logits(point)), victims.label)
            here = length(point - victims.image, self.norm)[:, 0]
            nearer = wrong & (here < distance)
            back = victims.image + self.way_back * (point - victims.image)
            return (number + 1, choose(wrong, back, point), choose(nearer, point, found),
                    tf.where_v2(nearer, here, distance))

        begin = [tf.constant(0), start, victims.image, tf.fill(tf.shape(victims.label), np.inf)]
        _, _, found, distance = tf.while_loop(lambda number, *_: number < self.num_iter, one_point, begin,
                                              back_prop=False, parallel_iterations=1, name='fab')
        return found, distance

    def _approach(self, image, point, lead, slope):
        """One step from ``point`` over the plane on which ``lead`` [N, 1] vanishes if it is linear with ``slope``."""
        both, normals = tf.concat([point, image], axis=0), tf.concat([slope, slope], axis=0)
        leads = tf.concat([lead, lead + tf.reduce_sum(slope * (image - point), axis=1, keepdims=True)], axis=0)
        moves = move_to_plane(both, normals, leads, self.norm)
        from_point, from_image = tf.split(moves, 2)
        way, way_of_image = tf.split(tf.maximum(length(moves, self.norm), 1e-8), 2)
        bias = tf.minimum(way / (way + way_of_image), self.most_bias)
        point = (1 - bias) * (point + self.overshoot * from_point) + bias * (image + self.overshoot * from_image)
        return tf.clip_by_value(point, 0.0, 1.0)

    @staticmethod
    def _plane(victims, point, target):
        """By how much the target's logit exceeds the label's, [N, 1], and the gradient of that, [N, D]."""
        logits = victims.get_logits(point)
        lead = logit_of(logits, target) - logit_of(logits, victims.label)
        slope, = tf.gradients(tf.reduce_sum(lead), point)
        return lead[:, tf.newaxis], slope

    def _nearest_plane(self, victims, point):
        """``_plane`` of the label whose plane is the nearest one; one label after another, to hold two gradients."""
        logits = victims.get_logits(point)
        classes = tf.shape(logits)[1]
        label = tf.one_hot(victims.label, classes)
        leads = logits - logit_of(logits, victims.label)[:, tf.newaxis]

        def one_label(other, nearest, lead, slope):
            this_slope, = tf.gradients(logits, point, tf.one_hot(other, classes) - label)
            this_lead = leads[:, other, tf.newaxis]
            distance = (tf.abs(this_lead) / (dual_length(this_slope, self.norm) + 1e-12))[:, 0]
            nearer = tf.not_equal(victims.label, other) & (distance < nearest)
            return (other + 1, tf.where_v2(nearer, distance, nearest), choose(nearer, this_lead, lead),
                    choose(nearer, this_slope, slope))

        begin = [tf.constant(0), tf.fill(tf.shape(victims.label), np.inf), tf.zeros_like(leads[:, :1]),
                 tf.zeros_like(point)]
        _, _, lead, slope = tf.while_loop(lambda other, *_: other < classes, one_label, begin, back_prop=False,
                                          parallel_iterations=1, name='labels')
        return lead, slope
