"""SAT Section 4: does a smooth activation make a network more robust, at no cost in accuracy?"""
from studies.figures import bars
from studies.scales import AUTOATTACK, CLEAN, PGD
from studies.study import JUDGED, Arm, Claim, Study

BASE = 'relu'
# The paper's five beside ReLU and Parametric Softplus of Section 3, and Mish, which later work adds.
_COMPARED = {'silu': 3, 'gelu': 3, 'softplus': 1, 'smoothrelu': 1, 'parametric_softplus': 1, 'elu': 1, 'mish': 1}


def arm_of(activation, seeds=3):
    return Arm(activation, ('--activation-name', activation), seeds, None if activation == BASE else BASE)


def cell_of(scale, arm, seed):
    return scale.cell(arm.name, arm.words, seed)


def _smooth_is_better():
    for activation in _COMPARED:
        if activation not in ('softplus', 'mish'):  # the paper's exception, and what it has not tried
            for column in (PGD, CLEAN):
                yield Claim('{} instead of ReLU raises {}'.format(
                    activation, 'robustness' if column == PGD else 'clean accuracy'), activation, BASE, column, 1)
    yield Claim('silu instead of ReLU raises robustness, by AutoAttack', 'silu', BASE, AUTOATTACK, 1)


STUDY = Study(
    'activations', 'SAT Section 4', 'Does a smooth activation make a network more robust, at no cost in accuracy?',
    lambda scale: [arm_of(BASE)] + [arm_of(name, seeds) for name, seeds in _COMPARED.items()], cell_of, JUDGED,
    list(_smooth_is_better()),
    'A network of 0.27 million weights cannot fit the attacked images, so that what holds it back is its size more '
    'than its gradients; the paper trains 25 million and more, ten times as long, at half the epsilon.', bars,
    published=('resnet20', 'sat', 'bai2021'))
