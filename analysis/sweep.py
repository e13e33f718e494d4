"""Accuracy against the number of attack steps and against epsilon, beside what should be weaker than the attack."""
from typing import Dict, List, NamedTuple

import numpy as np

from analysis.noise import RandomNoise
from analysis.subject import Outcome
from attacks.autoattack.square import SquareAttacker
from attacks.pgd import PGDAttacker
from evaluation.verdicts import wilson
from ranks.terminal import bar
from sat.images import Images

STEPS = (5, 10, 20, 50, 100, 200, 500, 1000)
EPSILONS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
NOISE_DRAWS = 10
LEAST_RECOGNISED = 20  # images; with fewer, no comparison could find anything. Ours


class Plan(NamedTuple):
    """What to attack with; lengths in pixel levels, 0-255, L-infinity.

    epsilon, step_size, num_iter: of the attack. At another epsilon its step is longer or shorter in proportion, at more
    steps it stays. steps, epsilons: the values of the two curves. queries: of the black-box attack.
    """
    epsilon: float
    step_size: float
    num_iter: int
    steps: tuple = STEPS
    epsilons: tuple = EPSILONS
    queries: int = 500

    def pgd(self, num_iter=None, epsilon=None):
        """The attack, with another number of steps or another epsilon."""
        num_iter, epsilon = num_iter or self.num_iter, epsilon or self.epsilon
        step = max(self.step_size * epsilon / self.epsilon, epsilon / num_iter)
        return PGDAttacker(num_iter, epsilon, step)

    @property
    def single_step(self):
        """One step across the whole radius from a random start (SAT's attack in training)."""
        return PGDAttacker(1, self.epsilon, self.epsilon)

    def black_box(self, num_classes):
        """The attack without gradients."""
        return SquareAttacker('Linf', self.epsilon, num_classes, self.queries)


class Sweep(NamedTuple):
    """What was found; every ``Outcome`` is of the same images.

    by_steps: steps to the outcome of PGD. by_epsilon: epsilon to that of PGD, 0 to the clean one. noise: epsilon to
    that of the worst of ``NOISE_DRAWS`` random corners. zero_gradient: bool, whether a loss has no slope at all.
    """
    images: Images
    plan: Plan
    clean: Outcome
    by_steps: Dict[int, Outcome]
    by_epsilon: Dict[float, Outcome]
    noise: Dict[float, Outcome]
    single_step: Outcome
    black_box: Outcome
    zero_gradient: np.ndarray

    @property
    def attacked(self):
        """Outcome of the plan's own attack."""
        return self.by_epsilon[self.plan.epsilon]

    @property
    def strongest(self):
        """(steps, outcome) of the longest attack."""
        longest = max(self.by_steps)
        return longest, self.by_steps[longest]

    def breaking_epsilon(self):
        """float [N]: the lowest epsilon at which an image is not recognised, 0 without attack, inf for none."""
        lowest = np.full(len(self.images), np.inf)
        for epsilon in sorted(self.by_epsilon, reverse=True):
            lowest[~self.by_epsilon[epsilon].standing] = epsilon
        return lowest


def measure(subject, images, plan, black_box=None, show_progress=False):
    """Attack ``images`` with all of ``plan``.

    Args:
        subject (Subject). black_box (Attacker): the one without gradients; None is the plan's own.
    Returns:
        Sweep.
    """
    clean = subject.judge(images)
    done = {}
    epsilons = sorted(set(plan.epsilons) | {0, plan.epsilon})
    pairs = [(k, plan.epsilon) for k in plan.steps] + [(plan.num_iter, e) for e in epsilons if e > 0]
    with bar(sum(k for k, _ in set(pairs)), '{}: attack steps'.format(subject.name), show_progress) as progress:
        for pair in pairs:
            if pair not in done:
                done[pair] = subject.judge(images, plan.pgd(*pair))
                progress.update(pair[0])
    black_box = black_box or plan.black_box(subject.model.num_classes)
    return Sweep(images, plan, clean, {k: done[k, plan.epsilon] for k in sorted(set(plan.steps))},
                 {e: done[plan.num_iter, e] if e else clean for e in epsilons},
                 {e: subject.judge(images, RandomNoise(NOISE_DRAWS, e)) if e else clean for e in epsilons},
                 subject.judge(images, plan.single_step), subject.judge(images, black_box),
                 subject.zero_gradients(images))


def check_recognised(subject, images):
    """Refuse a network that recognises too few of the images for any comparison.

    Raises:
        ValueError: says how many.
    """
    recognised = int(subject.judge(images).standing.sum())
    if recognised < LEAST_RECOGNISED:
        raise ValueError('{} recognises {} of {} images, too few to compare attacks: that needs {}; give more '
                         '--images, or check the data and the architecture flags'.format(
                             subject.name, recognised, len(images), LEAST_RECOGNISED))


def accuracy(outcome):
    """Of an outcome, with its 95% Wilson interval; JSON-ready."""
    right, total = int(outcome.standing.sum()), len(outcome.standing)
    return {'correct': right, 'accuracy': right / total, 'accuracy_95': wilson(right, total)}


def as_json(sweep, checks) -> dict:
    """The figures of a sweep, JSON-ready; lengths in pixel levels, 0-255.

    Args:
        checks (list of Check): see ``masking``.
    """
    plan = sweep.plan

    def row(outcome, **attack):
        return dict(attack, mean_loss=float(outcome.loss.mean()), **accuracy(outcome))

    def pgd(outcome, *which):
        attack = plan.pgd(*which)
        return row(outcome, num_iter=attack.num_iter, epsilon=attack.epsilon, step_size=attack.step_size)

    return {
        'num_images': len(sweep.images), 'norm': plan.pgd().norm, 'clean': row(sweep.clean),
        'steps': [pgd(outcome, k) for k, outcome in sweep.by_steps.items()],
        'epsilons': [pgd(outcome, None, e) if e else row(outcome, epsilon=0.0) for e, outcome in
                     sweep.by_epsilon.items()],
        'noise': [row(outcome, epsilon=e, draws=NOISE_DRAWS) for e, outcome in sweep.noise.items()],
        'single_step': row(sweep.single_step, num_iter=1, epsilon=plan.epsilon, step_size=plan.epsilon),
        'black_box': row(sweep.black_box, epsilon=plan.epsilon, queries=plan.queries),
        'zero_gradients': int(sweep.zero_gradient.sum()),
        'checks': [dict(check._asdict()) for check in checks],
        'masked': not all(check.passed for check in checks),
        'images': _images_json(sweep)}


def _images_json(sweep) -> List[dict]:
    rows = zip(sweep.images.files, sweep.images.index.tolist(), sweep.images.label.tolist(),
               sweep.clean.prediction.tolist(), sweep.clean.margin.tolist(), sweep.breaking_epsilon().tolist())
    return [{'file': file, 'index': index, 'label': label, 'clean_prediction': prediction, 'clean_margin': margin,
             'breaking_epsilon': epsilon if np.isfinite(epsilon) else None}
            for file, index, label, prediction, margin, epsilon in rows]
