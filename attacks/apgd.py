"""APGD as an attack of a training: short, from the image itself, on what is true of mixed images too.

As in "Revisiting Adversarial Training for ImageNet" (RAT, Singh et al. 2023, Sec 3); evaluations may have it likewise.
AutoAttack's APGD (``autoattack/apgd.py``) has the same steps from random points, and attacks only what stands.
"""
import dataclasses

import tensorflow.compat.v1 as tf

from attacks.attacker import Attacked, Attacker, Lengths, check, check_ball
from attacks.autoattack.ascent import ascend
from attacks.autoattack.steps import GRADIENT_SCALE, STEPS
from attacks.gradient import compiled
from attacks.threat import BEST_POINT, as_truth, attack_succeeded, cross_entropy, no_target, predicted_label

_OPTIONS = {'L1': {'first_share': 0.05}}  # RAT release; AutoAttack's is 0.2


@dataclasses.dataclass(frozen=True)
class APGD(Attacker):
    """Steps up the cross entropy with the truth, of lengths that it sets itself; returns the point of the highest loss
    among the image, cut to valid pixels, and where the steps came to.

    A pass with a gradient for each step, and one without for the last point: 3 forward and 2 backward for two steps.

    Attributes:
        num_iter (int): steps, at least 1. epsilon (float): radius in pixel levels, 0-255, in any norm.
        norm (str): one of ``STEPS``. xla (bool): let XLA compile the passes and steps.
    Raises:
        ValueError: a number out of range; names it.
    """
    num_iter: int
    epsilon: float
    norm: str = 'Linf'
    xla: bool = False
    verdict = BEST_POINT

    def __post_init__(self):
        check_ball('APGD', self.norm, self.epsilon)
        check('APGD', 'num_iter', self.num_iter, self.num_iter >= 1 and self.num_iter == int(self.num_iter),
              'a whole number above 0')
        object.__setattr__(self, 'num_iter', int(self.num_iter))
        object.__setattr__(self, 'epsilon', float(self.epsilon))

    @property
    def name(self):
        name = 'APGD-{}'.format(self.num_iter)
        return name if self.norm == 'Linf' else '{}-{}'.format(name, self.norm)

    @property
    def lengths(self):
        """The step size is that of the first one, and is not taken from other lengths."""
        return Lengths(self.num_iter, self.epsilon, first_step(self.norm, self.epsilon))

    @property
    def graph_key(self):
        return type(self), self.norm, self.xla

    def describe(self):
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'num_iter': self.num_iter,
                'targeted': False, 'target': 'none', 'random_start': False}

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        """See ``Attacker``. ``image``: of known H and W; the ball is around it as it is, also outside of [-1, 1]."""
        lengths, truth = lengths or self.lengths, as_truth(truth)
        shape = [-1] + image.shape[1:].as_list()
        with tf.name_scope('apgd'):
            unit = (tf.reshape(image, [-1, image.shape[1:].num_elements()]) + 1) / 2
            found = self.run(unit, truth, lambda point: get_logits(tf.reshape(2 * point - 1, shape)), lengths)
            adv = tf.reshape(2 * found.best - 1, tf.shape(image))
            adv.set_shape(image.shape)
            return Attacked(adv, no_target(truth), ~found.right)

    def run(self, image, truth, get_logits, lengths):
        """The same on images [N, D] for the unit scale, which is that of ``get_logits`` and of the ``Result``."""
        def judge(point):
            logits = get_logits(point)
            wrong = attack_succeeded(predicted_label(logits), truth, no_target(truth))
            return cross_entropy(logits, truth), ~wrong

        def evaluate(point):
            loss, right = judge(point)
            # Scaled afterwards, as a network may compute in float16.
            return loss, right, GRADIENT_SCALE * tf.gradients(loss, point)[0]

        steps = STEPS[self.norm](image, lengths.epsilon / 255, lengths.num_iter, **_OPTIONS.get(self.norm, {}))
        return ascend(lambda point: compiled(evaluate, [point], self.xla), steps, tf.clip_by_value(image, 0.0, 1.0),
                      judge_last=lambda point: compiled(judge, [point], self.xla))


def first_step(norm, epsilon):
    """Length of the first step in a ball of radius ``epsilon``, in its unit."""
    return STEPS[norm].first_step * epsilon
