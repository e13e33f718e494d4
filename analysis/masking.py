"""Does the attack fail because the network is robust, or because its gradients lead nowhere?

The usual checks (Athalye et al. 2018, Sec 3.1; Carlini et al. 2019, "On Evaluating Adversarial Robustness", Sec 4). All
compare verdicts on the same images, so that what counts is only the images on which two attacks differ.
"""
import itertools
from typing import NamedTuple

from scipy.stats import binomtest

from evaluation.verdicts import wilson

# A comparison counts as a finding where chance alone would give it less often than this, over all comparisons of a
# check together (Bonferroni). Ours.
LEVEL = 0.01
ABOUT_ZERO = 0.05  # accuracy that may be left at the largest epsilon; ours
WITHOUT_SLOPE = 0.05  # share of images that may have a gradient of exactly 0; ours
ENOUGH_RADIUS = 64.0  # pixel levels; SAT's own sweep ends there

NO_PROOF = 'These checks can show that an attack was too weak; passing them is no proof of robustness.'


class Check(NamedTuple):
    """One check: its name, whether it was passed, and what was found, in a sentence."""
    name: str
    passed: bool
    text: str


def stronger(standing, other):
    """p-value of "the first attack breaks more images", by the exact one-sided McNemar test.

    Args:
        standing, other (bool [N]): whether each image withstood the first attack, and the other one.
    Returns:
        float: probability of at least this much difference if neither attack were stronger.
    """
    only_first, only_other = int((~standing & other).sum()), int((standing & ~other).sum())
    if only_first + only_other == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_other, alternative='greater').pvalue)


def check(sweep):
    """All checks of a sweep.

    Returns:
        list of Check.
    """
    return [_more_steps(sweep), _larger_epsilon(sweep), _reaches_zero(sweep), _single_step(sweep), _black_box(sweep),
            _noise(sweep), _gradients(sweep)]


def verdict(checks):
    """What the checks say together, in one sentence."""
    failed = [c.name for c in checks if not c.passed]
    if not failed:
        return 'No sign of masked gradients: all {} checks passed.'.format(len(checks))
    return 'Signs of masked gradients: {} of {} checks failed ({}). The accuracies under this attack are not to be ' \
           'believed.'.format(len(failed), len(checks), ', '.join(failed))


def _percent(outcome):
    return '{:.1f}%'.format(100 * outcome.standing.mean())


def _steps(number):
    return '{} step{}'.format(number, '' if number == 1 else 's')


def _surprises(outcomes):
    """Pairs (weaker, stronger by its number) of a curve where the weaker attack breaks significantly more images.

    Args:
        outcomes (dict): number of which more should break more, to Outcome, in rising order.
    """
    pairs = list(itertools.combinations(outcomes, 2))
    return [(low, high) for low, high in pairs
            if stronger(outcomes[low].standing, outcomes[high].standing) * len(pairs) < LEVEL]


def _more_steps(sweep):
    found, numbers = _surprises(sweep.by_steps), list(sweep.by_steps)
    if found:
        low, high = found[0]
        text = 'PGD breaks more images in {} (accuracy {}) than in {} ({}); more steps must not be weaker.'.format(
            _steps(low), _percent(sweep.by_steps[low]), _steps(high), _percent(sweep.by_steps[high]))
    else:
        text = 'More steps are never weaker beyond chance: accuracy {} after {}, {} after {}.'.format(
            _percent(sweep.by_steps[numbers[0]]), _steps(numbers[0]), _percent(sweep.by_steps[numbers[-1]]),
            _steps(numbers[-1]))
    return Check('more steps', not found, text)


def _larger_epsilon(sweep):
    found, numbers = _surprises(sweep.by_epsilon), list(sweep.by_epsilon)
    if found:
        low, high = found[0]
        text = 'PGD breaks more images at epsilon {:g} (accuracy {}) than at {:g} ({}); a larger radius must not be ' \
               'weaker.'.format(low, _percent(sweep.by_epsilon[low]), high, _percent(sweep.by_epsilon[high]))
    else:
        text = 'A larger epsilon is never weaker beyond chance: accuracy {} at {:g}, {} at {:g}.'.format(
            _percent(sweep.by_epsilon[numbers[0]]), numbers[0], _percent(sweep.by_epsilon[numbers[-1]]), numbers[-1])
    return Check('larger epsilon', not found, text)


def _reaches_zero(sweep):
    largest = max(sweep.by_epsilon)
    outcome = sweep.by_epsilon[largest]
    lowest, _ = wilson(int(outcome.standing.sum()), len(outcome.standing))
    passed = lowest <= ABOUT_ZERO
    if passed:
        text = 'Accuracy falls to {} at epsilon {:g}.'.format(_percent(outcome), largest)
    elif largest < ENOUGH_RADIUS:
        text = 'Accuracy is still {} at epsilon {:g}, the largest that was tried; try {:g} and more.'.format(
            _percent(outcome), largest, ENOUGH_RADIUS)
    else:
        text = 'Accuracy is still {} at epsilon {:g}, where an attack that works leaves about nothing.'.format(
            _percent(outcome), largest)
    return Check('accuracy at a large epsilon', passed, text)


def _against_many(name, sweep, other, text, flagged):
    """Check that the longest PGD is not weaker than an attack that should be."""
    steps, outcome = sweep.strongest
    passed = stronger(other.standing, outcome.standing) >= LEVEL
    alone = int((outcome.standing & ~other.standing).sum())
    if not passed:
        end = flagged
    elif other.standing.sum() < outcome.standing.sum():
        end = 'the difference may be chance'
    else:
        end = 'as it should be, it is not the stronger one'
    return Check(name, passed, '{} leaves {}, PGD in {} leaves {}; it breaks {} image{} that PGD does not: {}.'.format(
        text, _percent(other), _steps(steps), _percent(outcome), alone, '' if alone == 1 else 's', end))


def _single_step(sweep):
    return _against_many('single step', sweep, sweep.single_step, 'A single step across the radius',
                         'one step must not beat many')


def _black_box(sweep):
    return _against_many('black box', sweep, sweep.black_box, 'The attack without gradients',
                         'doing without gradients must not be better')


def _noise(sweep):
    epsilons = [e for e in sweep.by_epsilon if e > 0]
    beaten = [e for e in epsilons
              if stronger(sweep.noise[e].standing, sweep.by_epsilon[e].standing) * len(epsilons) < LEVEL]
    better = [e for e in epsilons
              if stronger(sweep.by_epsilon[e].standing, sweep.noise[e].standing) * len(epsilons) < LEVEL]
    if beaten:
        e = beaten[0]
        text = 'Random noise of epsilon {:g} leaves {}, PGD leaves {}: an attack must not lose to noise.'.format(
            e, _percent(sweep.noise[e]), _percent(sweep.by_epsilon[e]))
    elif better:
        e = max(better, key=lambda e: sweep.noise[e].standing.sum() - sweep.by_epsilon[e].standing.sum())
        text = 'PGD is stronger than random noise: at epsilon {:g} it leaves {}, noise leaves {}.'.format(
            e, _percent(sweep.by_epsilon[e]), _percent(sweep.noise[e]))
    else:
        text = 'At no epsilon does PGD break more images than random noise does, beyond chance.'
    return Check('random noise', bool(better) and not beaten, text)


def _gradients(sweep):
    total, zero = len(sweep.images), int(sweep.zero_gradient.sum())
    # A loss of 0 is one that float32 has rounded; its gradient need not be.
    still = int(((sweep.attacked.loss == sweep.clean.loss) & (sweep.clean.loss > 0)).sum())
    passed = max(zero, still) <= WITHOUT_SLOPE * total
    return Check('gradients', passed, 'The loss has a gradient of exactly zero at {} of {} images, and is above zero '
                 'and exactly the same after the attack at {}.'.format(zero, total, still))
