"""The attacks that have a name: PGD, FGSM and MI-FGSM, put together from their parts, and no attack at all."""
import dataclasses

import tensorflow.compat.v1 as tf
from tensorpack.utils import logger

from attacks.attacker import Attacked, Attacker, check
from attacks.gradient import GradientAttacker
from attacks.parts import CLEAN_START, LEAST_LIKELY, UNTARGETED, Momentum, RandomTarget, UniformStart
from attacks.threat import as_truth, no_target


class NoOpAttacker(Attacker):
    """The attacker of clean training and clean evaluation: it changes nothing."""
    name, norm, epsilon, parts = 'none', 'Linf', 0.0, ()

    def describe(self):
        """As of an attack of no length."""
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'step_size': 0.0, 'num_iter': 0,
                'targeted': False}

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        """Return ``image`` as it is."""
        target = no_target(as_truth(truth))
        return Attacked(image, target, tf.zeros_like(target, tf.bool))


def PGDAttacker(num_iter, epsilon, step_size, targeted=False, random_start=True, prob_start_from_clean=0.0,
                **options):
    """Projected gradient descent in a ball around the image (Madry et al. 2017; FD Sec 6, SAT Sec 3).

    Args:
        num_iter, epsilon, step_size: see ``GradientAttacker``. targeted: see ``compose``.
        random_start (bool): start from a point drawn uniformly from the ball, cut to valid pixels, else from the
            clean image.
        prob_start_from_clean (float): probability, for each image, of starting from the clean image all the same.
        options: see ``compose``.
    Returns:
        GradientAttacker.
    Raises:
        ValueError: a number out of range; names it.
    """
    start = UniformStart(prob_start_from_clean)
    return compose('PGD-{}', num_iter, epsilon, step_size, targeted, start=start if random_start else CLEAN_START,
                     **options)


def FGSMAttacker(epsilon, **options):
    """The fast gradient sign method: one step of the whole radius from the clean image (Goodfellow et al. 2014).

    In L2 and L1 the step is the steepest one of that norm. ``options``, returns, raises: as ``PGDAttacker``.
    """
    return compose('FGSM', 1, epsilon, epsilon, **options)


def MomentumAttacker(num_iter, epsilon, step_size, **options):
    """MI-FGSM: steps along a sum of all gradients so far, from the clean image (Dong et al. 2018).

    ``options``, returns, raises: as ``PGDAttacker``.
    """
    return compose('MI-FGSM-{}', num_iter, epsilon, step_size, memory=Momentum(), **options)


def compose(title, num_iter, epsilon, step_size, targeted=False, least_likely=False, num_classes=1000,
            enlarge_small_steps=True, **options):
    """An attack put together with the aim that is asked for.

    Args:
        title, num_iter, epsilon, step_size, options: see ``GradientAttacker``.
        targeted (bool): lower the cross entropy of a wrong label: of one drawn uniformly (FD Sec 6.1) or, with
            ``least_likely`` (bool), of the one that the network finds least likely on the clean image (Kurakin et al.
            2017); else raise that of the true one (SAT).
        num_classes (int): number of labels that a target is drawn from.
        enlarge_small_steps (bool): raise step_size to epsilon / num_iter where it is smaller, as the releases do, so
            that the attack can cross the ball; said in the log. Off: step_size is taken as it is.
    Returns, raises: as ``PGDAttacker``.
    """
    check(title.replace('-{}', '') + 'Attacker', 'num_classes', num_classes, num_classes >= 2, 'at least 2')
    aim = UNTARGETED if not targeted else LEAST_LIKELY if least_likely else RandomTarget(num_classes)
    attacker = GradientAttacker(title, num_iter, epsilon, step_size, aim=aim, **options)
    if not enlarge_small_steps or step_size >= epsilon / num_iter:
        return attacker
    enlarged = dataclasses.replace(attacker, step_size=epsilon / num_iter)
    logger.warning('{}: step size raised from {:g} to epsilon / steps = {:.4g} pixel levels'.format(
        attacker.name, step_size, enlarged.step_size))
    return enlarged
