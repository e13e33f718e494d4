"""Attacks by the loss's gradient beside PGD, and what an evaluation calls them."""
import tensorflow.compat.v1 as tf

from attacks.pgd import PGDAttacker


class FGSMAttacker(PGDAttacker):
    """The fast gradient sign method: one step of the whole radius from the clean image (Goodfellow et al. 2014).

    In L2 and L1 the step is the steepest one of that norm.

    Args: see ``PGDAttacker``.
    """

    def __init__(self, epsilon, **options):
        super().__init__(1, epsilon, epsilon, random_start=False, **options)

    @property
    def name(self):
        return self._in_norm('FGSM')


class MomentumAttacker(PGDAttacker):
    """MI-FGSM: steps along a sum of all gradients so far, from the clean image (Dong et al. 2018).

    Args: see ``PGDAttacker``.
    """
    decay = 1.0  # Dong et al. 2018 Sec 4.1: of the sum, before a gradient is added

    def __init__(self, num_iter, epsilon, step_size, **options):
        super().__init__(num_iter, epsilon, step_size, random_start=False, **options)

    @property
    def name(self):
        return self._in_norm('MI-FGSM-{}'.format(self.num_iter))

    def describe(self):
        """As ``PGDAttacker.describe``."""
        return dict(super().describe(), decay=self.decay)

    def _memory(self, start):
        return [tf.zeros_like(start)]

    def _remember(self, gradient, total):
        size = tf.reduce_mean(tf.abs(gradient), axis=[1, 2, 3], keepdims=True)
        total = self.decay * total + tf.math.divide_no_nan(gradient, size)
        return [total, total]


ATTACKS = ('pgd', 'fgsm', 'momentum', 'autoattack')
TARGETS = ('none', 'random', 'least-likely')


def default_step_size(attack, norm, num_iter, epsilon, linf):
    """Length of a step, in pixel levels, where none is asked for; ``linf``: what PGD has in L-infinity."""
    if attack == 'fgsm':
        return epsilon
    if attack == 'momentum':
        return epsilon / num_iter  # Dong et al. 2018 Sec 3.1
    return linf if norm == 'Linf' else 2.5 * epsilon / num_iter  # Madry et al. 2017 Sec 5, for L2
