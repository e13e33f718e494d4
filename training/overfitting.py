"""Whether a training overfits its attack, told by what its evaluations have found: neither graphs nor files.

Catastrophic: from one epoch to the next the accuracy under PGD falls to about 0, while that under the attack of the
training, mostly of one step, stays or rises (Wong, Rice and Kolter 2020, "Fast is better than free"; Andriushchenko
and Flammarion 2020, "Understanding and improving fast adversarial training"). Slow: the robust accuracy on validation
images falls for epochs, while that on training images rises (Rice, Wong and Kolter 2020, "Overfitting in adversarially
robust deep learning"; there after the first fall of the learning rate).

Both are told by the same comparison, that of an evaluation with the best one before. Its interval is of two independent
sets of images, as the published ones are; that they are the same images here makes it wider than it need be.
"""
import math
from statistics import median
from typing import Any, List, NamedTuple, Optional, Sequence, Set

from evaluation.verdicts import CLEAN, wilson
from settings.run import BACK, STOP

CATASTROPHIC, SLOW = KINDS = 'catastrophic', 'slow'
# Scalars of an epoch: 1 where overfitting of a kind, whose name follows, begins; the epoch of the weights that the next
# one begins with, where it is another; 1 where the run ends for it.
NOTED, WENT_BACK_TO, ENDED = 'overfitting-', 'went-back-to-epoch', 'ended-by-overfitting'

# A robust accuracy is a best one from here on, as a part of the way from what is right by itself, where a network gives
# all images the class that has the most, to 1. What is below tells of a network that has not begun to learn.
_LEARNT = 0.05
# Of the best accuracy, below which an evaluation has collapsed; at published epsilons it falls from some 40% to below
# 1% (Wong et al.; Andriushchenko and Flammarion, Fig. 1). Wong et al.'s own program stops at a fall by 20 points.
_COLLAPSED = 0.5
# Of the training accuracy at the best evaluation, from which on it has not fallen with it.
_KEPT = 0.9
# A slow fall is more than this times what evaluations differ by from one to the next, the median of the last so many:
# at high learning rates they go up and down by more than the images' number explains, and the best of many is one of
# luck. For normal errors it is 4.8 standard deviations: of simulated trainings with 60 evaluations, two one after the
# other were that far below in one of twelve. From fewer changes than the last number nothing is told.
_BEYOND_CHANGES, _CHANGES, _LEAST_CHANGES = 5, 20, 5


class Figures(NamedTuple):
    """What was known after an evaluation; fractions of images that are right.

    Attributes:
        epoch (int). images (int): that were judged.
        clean, robust (float): of these, without an attack and under that of the evaluations; of the weights that are
            trained. chosen_by (float): likewise robust, of the weights by which the best checkpoint is chosen: their
            moving averages where there are some.
        training (float): of the epoch's training images, as they enter the loss; under mixing of labels against the
            largest one, which lowers it in all epochs alike.
        by_itself (float): what a network has right that gives every image the same class, the one with the most images.
        went_back_to (int): the epoch whose weights the next epoch began with; None for those of this one.
    """
    epoch: int
    images: int
    clean: float
    robust: float
    chosen_by: float
    training: float
    by_itself: float = 0.0
    went_back_to: Optional[int] = None


class Finding(NamedTuple):
    """That a training overfits.

    kind (str): CATASTROPHIC or SLOW. now (Figures): by which it is seen. best (Figures): with which they are compared.
    begins (bool): it was not so before, or it is so again after the run went back.
    """
    kind: str
    now: Figures
    best: Figures
    begins: bool

    def in_words(self, attack: str, training_attack: str, averaged: bool) -> str:
        """In a line; ``attack``, ``training_attack``: names of those of the evaluations and of the training."""
        now, best = self.now, self.best
        if self.kind == CATASTROPHIC:
            fall = '{:.1%} under {}, where epoch {} had {:.1%}'.format(now.robust, attack, best.epoch, best.robust)
        else:
            fall = '{:.1%} under {}{}, in the second evaluation below the {:.1%} of epoch {}'.format(
                now.chosen_by, attack, ' with the averaged weights' * averaged, best.chosen_by, best.epoch)
        return 'epoch {}: {} overfitting: {}, while {:.1%} of the training images withstand {} ({:.1%} then)'.format(
            now.epoch, self.kind, fall, now.training, training_attack, best.training)


def figures_of(epochs: Sequence[Any], attack: str, averaged: bool) -> List[Figures]:
    """The evaluations of a run.

    Args:
        epochs (sequence of Epoch): its records.
        attack (str): the attack of the evaluations that decides what is best, as of ``Judged``. Where a resumed run is
            judged by another one, what was before does not count, as for the best checkpoint.
        averaged (bool): whether the moving averages decide it.
    """
    found = []
    for epoch in epochs:
        clean, robust, chosen_by = epoch.of(CLEAN), epoch.of(attack), epoch.of(attack, averaged)
        if clean and robust and chosen_by and robust.num_images and epoch.train_error is not None:
            found.append(Figures(
                epoch.number, robust.num_images, clean.top1_accuracy, robust.top1_accuracy, chosen_by.top1_accuracy,
                1 - epoch.train_error, epoch.largest_class or 0.0, epoch.went_back_to))
    return found


def judge(history: Sequence[Figures]) -> List[Optional[Finding]]:
    """What each evaluation of a run shows beside those before it; None where it overfits nothing."""
    found: List[Optional[Finding]] = []
    for number in range(len(history)):
        found.append(_catastrophic(history[:number + 1], found) or _slow(history[:number + 1], found))
    return found


def reaction(finding: Optional[Finding], wanted: Optional[str], best_epoch: Optional[int],
             went_back_to: Set[int]) -> Optional[str]:
    """What a run is to do: STOP, BACK, or None to go on.

    Args:
        finding: of ``judge``. wanted (str): STOP, BACK or None, as asked for.
        best_epoch (int): that of the best checkpoint. went_back_to (set of int): epochs to which the run has been back.
    """
    if finding is None or wanted is None or finding.now.went_back_to is not None:
        return None
    # The same weights again would meet other images and another rate than before, but have met them once.
    return BACK if wanted == BACK and best_epoch is not None and best_epoch not in went_back_to else STOP


def _catastrophic(history: Sequence[Figures], found: Sequence[Optional[Finding]]) -> Optional[Finding]:
    """Finding of the last of ``history``, or None; ``found``: of those before."""
    now, best = history[-1], _best(history[:-1], 'robust')
    if best is None or now.training < _KEPT * best.training:
        return None
    # A network that has lost its clean images, too, as by statistics of batch norm that are behind, has lost its
    # robustness with them.
    left = _COLLAPSED * min(1.0, now.clean / best.clean) if best.clean else _COLLAPSED
    if _least_fall(best.robust, best.images, now.robust, now.images, left) <= 0:
        return None
    begins = history[-2].went_back_to is not None or not found[-1] or found[-1].kind != CATASTROPHIC
    return Finding(CATASTROPHIC, now, best, begins)


def _slow(history: Sequence[Figures], found: Sequence[Optional[Finding]]) -> Optional[Finding]:
    """Likewise, by two evaluations one after the other: one alone may have met a bad moment."""
    now, best = history[-1], _best(history[:-1], 'chosen_by')
    if best is None or now.training <= best.training or not (_is_low(history) and _is_low(history[:-1])):
        return None
    before = history[-2]
    if before.went_back_to is not None or (found[-1] and found[-1].kind == CATASTROPHIC):
        return None
    # An accuracy that goes up and down below the same best one is still the same fall.
    since = max([number + 1 for number, each in enumerate(history[:-1]) if each.went_back_to is not None], default=0)
    known = any(each and each.kind == SLOW and each.best.epoch == best.epoch for each in found[since:])
    return Finding(SLOW, now, best, not known)


def _best(history: Sequence[Figures], by: str) -> Optional[Figures]:
    """The first of the best evaluations; None where it tells of nothing that was learnt."""
    best = max(history, key=lambda each: getattr(each, by), default=None)
    if best is None:
        return None
    low, _ = wilson(round(getattr(best, by) * best.images), best.images)
    return best if low > best.by_itself + _LEARNT * (1 - best.by_itself) else None


def _is_low(history: Sequence[Figures]) -> bool:
    """Whether the last evaluation is below the best one, by more than chance and than usual."""
    now, best = history[-1], _best(history[:-1], 'chosen_by')
    if best is None or _least_fall(best.chosen_by, best.images, now.chosen_by, now.images) <= 0:
        return False
    changes = [abs(after.chosen_by - before.chosen_by) for before, after in zip(history, history[1:])]
    return len(changes) >= _LEAST_CHANGES and \
        best.chosen_by - now.chosen_by > _BEYOND_CHANGES * median(changes[-_CHANGES:])


def _least_fall(before: float, images_before: int, now: float, images_now: int, part: float = 1.0) -> float:
    """Lower end of the 95% interval of ``part`` times a fraction before less a fraction now, by the Wilson intervals of
    both (Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10; Zou and
    Donner 2008 for the factor)."""
    low, _ = wilson(round(before * images_before), images_before)
    _, high = wilson(round(now * images_now), images_now)
    return part * before - now - math.hypot(part * (before - low), high - now)
