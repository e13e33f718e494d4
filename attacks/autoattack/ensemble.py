"""The versions of AutoAttack: which attacks, in which order, with which settings.

They are the published code's (github.com/fra31/auto-attack), so that results compare. Each attack runs on the images
that still stand after those before it.
"""
from tensorpack.utils import logger

from attacks.autoattack.apgd import APGDAttacker
from attacks.autoattack.fab import FABAttacker
from attacks.autoattack.square import SquareAttacker

VERSIONS = ('standard', 'apgd', 'plus', 'rand')
ATTACKS = ('apgd-ce', 'apgd-dlr', 'apgd-t', 'fab', 'fab-t', 'square')
TARGETS = 9  # AA Sec 5
EOT_PASSES = 20  # of 'rand', for networks that draw random numbers

_OF_VERSION = {'standard': ('apgd-ce', 'apgd-t', 'fab-t', 'square'),
               # The first two of 'standard', with its settings: the short form of "Revisiting Adversarial Training".
               'apgd': ('apgd-ce', 'apgd-t'),
               'plus': ('apgd-ce', 'apgd-dlr', 'fab', 'square', 'apgd-t', 'fab-t'),
               'rand': ('apgd-ce', 'apgd-dlr')}


def make_attackers(version, norm, epsilon, num_classes, seed=0, streams=None):
    """The attackers of a version, in order.

    Args:
        version (str): 'standard', 'apgd', 'plus', 'rand', or names of ``ATTACKS`` with commas between them. 'plus' and
            a list of names run APGD and FAB 5 times, once for each target; 'rand' runs APGD once, with averaged
            gradients.
        norm (str): 'Linf', 'L2' or 'L1'. epsilon (float): radius in pixel levels, 0-255, in any norm.
        num_classes (int): of the network; targets are at most the wrong ones.
        seed (int), streams (ImageStreams): see ``Attacker``.
    Returns:
        list of Attacker.
    Raises:
        ValueError: no such version or attack, one named twice, too few classes for one of them, or as ``Attacker``.
    """
    names = _OF_VERSION.get(version) or _parse(version)
    standard = version in ('standard', 'apgd')
    restarts = 1 if version == 'rand' or (standard and norm != 'L1') else 5
    options = dict(norm=norm, epsilon=epsilon, num_classes=num_classes, seed=seed, streams=streams)
    larger_epsilon = standard and norm == 'L1'  # MB Sec 5.2
    targets = min(TARGETS, num_classes - 1)
    if targets < TARGETS and any(name in ('apgd-t', 'fab-t') for name in names):
        logger.warning('AutoAttack: {} targets in place of {}, since the network has {} classes'.format(
            targets, TARGETS, num_classes))

    def make(name):
        if name == 'square':
            return SquareAttacker(**options)
        if name in ('fab', 'fab-t'):
            return FABAttacker(name, restarts=5 if name == 'fab' else 1, targets=max(targets, 1), **options)
        return APGDAttacker(name, restarts=1 if name == 'apgd-t' else restarts,
                            targets=max(min(targets, 5), 1) if larger_epsilon else max(targets, 1),
                            larger_epsilon=larger_epsilon, eot_iter=EOT_PASSES if version == 'rand' else 1, **options)
    return [make(name) for name in names]


def _parse(names):
    names = tuple(name.strip() for name in names.split(','))
    for name in names:
        if name not in ATTACKS:
            raise ValueError("AutoAttack: '{}' is neither a version ({}) nor an attack ({})".format(
                name, ', '.join(VERSIONS), ', '.join(ATTACKS)))
        if names.count(name) > 1:
            raise ValueError("AutoAttack: '{}' is named twice".format(name))
    return names
