"""What a network says of images, counted."""
import math

import numpy as np

from attacks.threat import NO_TARGET

CLEAN = 'clean'
Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
MAX_UNREADABLE = 0.01  # of all images; figures of fewer are not what was asked for
UNREADABLE_EXIT_CODE = 3


class Verdicts:
    """What a network says of a set of images in one pass over it; arrays [N], ordered by index.

    Attributes:
        index, label, prediction (int), wrong_top5 (bool), target (int, NO_TARGET where untargeted), any_step (bool:
        whether the attack succeeded at any step).
    """

    def __init__(self, index, label, prediction, wrong_top5, target, any_step):
        self.index, self.label, self.prediction, self.target = index, label, prediction, target
        self.wrong_top5, self.any_step = wrong_top5.astype(bool), any_step.astype(bool)

    @property
    def correct(self):
        return self.prediction == self.label

    def of(self, index):
        """The ``Verdicts`` on the images ``index`` (int [n], ascending), which must be among these."""
        chosen = np.searchsorted(self.index, index)
        return Verdicts(*(a[chosen] for a in (self.index, self.label, self.prediction, self.wrong_top5, self.target,
                                              self.any_step)))

    def summary(self):
        """Errors as fractions with 95% Wilson intervals, and the count of right ones; JSON-ready."""
        n = len(self.index)
        wrong1, wrong5 = int(n - self.correct.sum()), int(self.wrong_top5.sum())
        return {'top1_error': wrong1 / n, 'top1_error_95': wilson(wrong1, n), 'top1_correct': n - wrong1,
                'top5_error': wrong5 / n, 'top5_error_95': wilson(wrong5, n), 'top5_correct': n - wrong5}


def wilson(count, total):
    """95% Wilson score interval [low, high] of a fraction ``count / total`` (Wilson 1927)."""
    fraction, z2 = count / total, Z_95 ** 2
    centre = (fraction + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 * math.sqrt(fraction * (1 - fraction) / total + z2 / (4 * total ** 2)) / (1 + z2 / total)
    return [max(0.0, centre - half), min(1.0, centre + half)]


def attack_success(clean, attacked, any_step=False):
    """(successes, trials) of an attack, on the images that it returned or, with ``any_step``, at any of its steps.

    Targeted: images given the target label, of all images (FD Sec 6.1). Untargeted: images right without the attack
    and wrong under it, of those right without it.
    """
    targeted = len(attacked.target) and attacked.target[0] != NO_TARGET
    tried = np.ones(len(attacked.target), bool) if targeted else clean.correct
    success = attacked.prediction == attacked.target if targeted else ~attacked.correct
    return int((tried & (attacked.any_step if any_step else success)).sum()), int(tried.sum())


def too_many_unreadable(read, total):
    """Whether so many images could not be read that figures of the others alone would mislead."""
    return total - read > MAX_UNREADABLE * total
