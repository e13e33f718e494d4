"""APGD: projected gradient descent that sets its own step size (AA Sec 3; in L1, MB Sec 4)."""
import math

import tensorflow.compat.v1 as tf

from attacks.autoattack.ascent import Result, ascend
from attacks.autoattack.attacker import Attacker, ranked_label
from attacks.autoattack.geometry import project_l1
from attacks.autoattack.losses import cross_entropy, dlr, targeted_dlr
from attacks.autoattack.steps import GRADIENT_SCALE, STEPS, L1Steps
from attacks.threat import predicted_label

LOSSES = {'apgd-ce': cross_entropy, 'apgd-dlr': dlr, 'apgd-t': targeted_dlr}
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
        steps = STEPS[self.norm](victims.image, self.radius, self.num_iter)
        start = steps.random_point(self.streams, victims.seeds, self._stream(number))
        return self.run(victims, target, steps, start)

    def _run_through_balls(self, victims, target, number):
        """Runs in balls of shrinking radius, each from the best point of the one before; the last one counts."""
        lengths = [math.ceil(share * self.num_iter) for _, share in LARGER_EPSILON[:-1]]
        lengths.append(max(self.num_iter - sum(lengths), 0))
        radii = tf.constant([factor * self.radius for factor, _ in LARGER_EPSILON], tf.float32)
        noise = self.streams.normal(victims.seeds, self._stream(number), victims.image.shape[1:])
        start = project_l1(victims.image, noise, radii[0])

        def one_ball(index, start, *_):
            steps = L1Steps(victims.image, radii[index], tf.constant(lengths)[index])
            start = project_l1(victims.image, start - victims.image, radii[index])
            result = self.run(victims, target, steps, start, sparse_start=True)
            return index + 1, result.best, result.adv, result.right

        _, best, adv, right = tf.while_loop(
            lambda index, *_: index < len(lengths), one_ball,
            [tf.constant(0), start, start, tf.ones_like(victims.label, tf.bool)], back_prop=False,
            parallel_iterations=1, name='balls')
        return Result(best, None, adv, right)

    def run(self, victims, target, steps, start, sparse_start=False):
        """One run on ``victims`` (Victims); ``target``: int32 [N] for the targeted loss, else None. The rest and what
        it returns: see ``ascend``."""
        labels = (victims.label,) if target is None else (victims.label, target)
        return ascend(lambda point: self._evaluate(victims, labels, point), steps, start, sparse_start)

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
