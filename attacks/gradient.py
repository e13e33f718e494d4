"""Attacks by the gradient of a loss, put together from ``parts`` and a ball."""
import dataclasses
from typing import Any, Callable, Optional

import tensorflow.compat.v1 as tf

from attacks.attacker import Attacked, Attacker, Lengths, check, check_ball
from attacks.balls import BALLS
from attacks.early_stop import until_success
from attacks.parts import CLEAN_START, NO_MEMORY, UNTARGETED, likelihood_of_target, loss_of_truth, steepest_step
from attacks.threat import ANY_STEP, LAST_STEP, PIXEL, as_truth, attack_succeeded, predicted_label
from seeds import EVALUATION_STREAM, image_seeds
from smooth_activations import tensorflow_ops_only


@dataclasses.dataclass(frozen=True)
class GradientAttacker(Attacker):
    """Steps up a loss in a ball around the image.

    Attributes:
        title (str): the name but for the norm, with ``{}`` for the number of steps where it tells that.
        num_iter (int): steps, at least 1.
        epsilon (float): radius in pixel levels, 0-255. step_size (float): of one step, in pixel levels.
        norm (str): one of ``BALLS``, in which lengths are measured.
        aim, loss, memory, start, step: parts; see ``parts``, which says of each kind how it is called. loss: None for
            the cross entropy, to be raised of the truth, or if there is a target to be lowered of that.
        seed (int): for the draws of images that come without ``seeds``.
        xla (bool): let XLA compile a step as a whole, as the FD release's --use-fp16xla does.
        early_stop (bool): leave each image where the attack first succeeds on it, and take no more steps there.
    Raises:
        ValueError: a number out of range; names it.
    """
    title: str
    num_iter: int
    epsilon: float
    step_size: float
    norm: str = 'Linf'
    aim: Any = UNTARGETED
    loss: Optional[Callable] = None
    memory: Any = NO_MEMORY
    start: Any = CLEAN_START
    step: Callable = steepest_step
    seed: int = 0
    xla: bool = False
    early_stop: bool = False

    def __post_init__(self):
        owner = self.family + 'Attacker'
        check_ball(owner, self.norm, self.epsilon)
        check(owner, 'num_iter', self.num_iter, self.num_iter >= 1 and self.num_iter == int(self.num_iter),
              'a whole number above 0')
        check(owner, 'step_size', self.step_size, self.step_size > 0, 'a positive number of pixel levels')
        for name, kind in ('num_iter', int), ('epsilon', float), ('step_size', float):
            object.__setattr__(self, name, kind(getattr(self, name)))

    @property
    def family(self):
        """The name but for norm and steps."""
        return self.title.replace('-{}', '')

    @property
    def name(self):
        name = self.title.format(self.num_iter)
        return name if self.norm == 'Linf' else '{}-{}'.format(name, self.norm)

    @property
    def lengths(self):
        return Lengths(self.num_iter, self.epsilon, self.step_size)

    @property
    def verdict(self):
        return ANY_STEP if self.early_stop else LAST_STEP

    @property
    def graph_key(self):
        return (type(self), self.norm, self.aim, self.loss, self.memory, self.start, self.step, self.seed, self.xla,
                self.early_stop)

    def describe(self):
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'step_size': self.step_size,
                'num_iter': self.num_iter, 'targeted': self.aim.targeted, 'target': self.aim.word,
                **self.start.describe(), 'early_stop': self.early_stop, **self.memory.describe()}

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        num_iter, epsilon, step_size = lengths or self.lengths
        with tf.name_scope('pgd'):
            if seeds is None:
                seeds = image_seeds(self.seed, EVALUATION_STREAM, tf.range(tf.shape(image)[0]))
            truth = as_truth(truth)
            target = self.aim(image, truth, get_logits, seeds)
            loss = self.loss or (likelihood_of_target if self.aim.targeted else loss_of_truth)
            length = step_size * PIXEL

            def ball_around(image):
                return BALLS[self.norm](image, epsilon * PIXEL)

            def one_step(ball, truth, target, adv, *memory):
                """Whether the attack has succeeded at ``adv``, and the next point and memory."""
                logits = get_logits(adv)
                gradient, = tf.gradients(tf.reduce_sum(loss(logits, truth, target)), adv)
                gradient, memory = self.memory.take(gradient, *memory)
                moved = self.step(ball, adv, gradient, length)
                return attack_succeeded(predicted_label(logits), truth, target), [moved] + memory

            ball = ball_around(image)
            start = self.start(image, ball, seeds)
            state, succeeded_before = [start] + self.memory.begin(start), tf.zeros_like(target, tf.bool)
            if self.early_stop:
                adv, *_ = until_success(lambda image, *rest: one_step(ball_around(image), *rest),
                                        [image, truth, target], state, num_iter)
            else:
                def one_step_of_all(succeeded_before, *state):
                    succeeded, *state = compiled(
                        lambda *state: tf.nest.flatten(one_step(ball, truth, target, *state)), state, self.xla)
                    return [succeeded_before | succeeded] + state

                succeeded_before, adv, *_ = tf.while_loop(
                    lambda *_: True, one_step_of_all, [succeeded_before] + state, maximum_iterations=num_iter,
                    back_prop=False, parallel_iterations=1, return_same_structure=True, name='attack_loop')
            adv.set_shape(image.shape)
            return Attacked(adv, target, succeeded_before)


def compiled(function, inputs, xla):
    """``function(*inputs)``, a list of tensors; by XLA if that is asked for (bool)."""
    if not xla:
        return function(*inputs)
    with tensorflow_ops_only():
        return tf.xla.experimental.compile(function, list(inputs))
