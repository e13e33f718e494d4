"""The kinds of attack that may be asked for, each once: an entry here is all that a new one needs."""
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

from attacks.apgd import APGD, first_step
from attacks.attacker import Attacker
from attacks.ensemble import Ensemble
from attacks.pgd import FGSMAttacker, MomentumAttacker, PGDAttacker

# (norm, number of steps, radius, PGD's step in L-infinity) -> length of a step where none is asked for
StepSize = Callable[[str, int, float, float], float]


class Kind(NamedTuple):
    """A kind of attack. Names of options are those of the fields of ``settings.attack.Attack``.

    make: (Attack, number of classes, seed) -> Attacker. step_size: the default; None: an attack with steps of its own,
    of which nothing is asked. help: of its word. without: options that it does not have. values: of options that it
    decides where they are not given. num_iter: the default number of steps; None: the recipe's. no_early_stop: why it
    does not take that option, to follow its name; None: it does. no_training: likewise, why it cannot train.
    """
    make: Callable[[Any, int, int], Attacker]
    step_size: Optional[StepSize]
    help: str = ''
    without: Tuple[str, ...] = ('version',)
    values: Mapping[str, Any] = {}
    num_iter: Optional[int] = None
    no_early_stop: Optional[str] = None
    no_training: Optional[str] = None


def options_of(attack, num_classes, seed):
    """What an ``Attack`` says beside its lengths, for ``attacks.pgd.compose``."""
    return dict(norm=attack.norm, targeted=attack.targeted, least_likely=attack.target == 'least-likely',
                num_classes=num_classes, seed=seed, xla=attack.xla, early_stop=attack.early_stop)


def _pgd(attack, num_classes, seed):
    return PGDAttacker(attack.num_iter, attack.epsilon, attack.step_size,
                       prob_start_from_clean=attack.prob_start_from_clean, **options_of(attack, num_classes, seed))


def _fgsm(attack, num_classes, seed):
    return FGSMAttacker(attack.epsilon, **options_of(attack, num_classes, seed))


def _momentum(attack, num_classes, seed):
    return MomentumAttacker(attack.num_iter, attack.epsilon, attack.step_size,
                            **options_of(attack, num_classes, seed))


def _apgd(attack, num_classes, seed):
    return APGD(attack.num_iter, attack.epsilon, attack.norm, attack.xla)


def _autoattack(attack, num_classes, seed):
    from attacks.autoattack.ensemble import make_attackers
    return Ensemble('autoattack-{}-{}'.format(attack.version, attack.norm), attack.norm, attack.epsilon,
                    make_attackers(attack.version, attack.norm, attack.epsilon, num_classes))


KINDS: Dict[str, Kind] = {
    # Madry et al. 2017 Sec 5, for L2.
    'pgd': Kind(_pgd, lambda norm, num_iter, epsilon, linf: linf if norm == 'Linf' else 2.5 * epsilon / num_iter,
                'steps of one length up the loss, from a random point'),
    'fgsm': Kind(_fgsm, lambda norm, num_iter, epsilon, linf: epsilon, 'one step of the whole radius',
                 ('num_iter', 'step_size', 'prob_start_from_clean', 'version'), num_iter=1,
                 no_early_stop='has only one step'),
    'momentum': Kind(_momentum, lambda norm, num_iter, epsilon, linf: epsilon / num_iter,  # Dong et al. 2018 Sec 3.1
                     'MI-FGSM', ('version', 'prob_start_from_clean')),
    'apgd': Kind(_apgd, lambda norm, num_iter, epsilon, linf: first_step(norm, epsilon),
                 "from the image, in steps of a size of its own, to the highest loss: revisiting-at's",
                 ('step_size', 'targeted', 'target', 'prob_start_from_clean', 'version'), {'targeted': False},
                 no_early_stop='ends at the highest loss'),
    'autoattack': Kind(_autoattack, None, 'several attacks, each on the images that still stand',
                       ('num_iter', 'step_size', 'targeted', 'target', 'prob_start_from_clean', 'precision', 'xla',
                        'use_fp16xla'),
                       {'version': 'standard', 'targeted': False}, no_early_stop='always stops at the first success',
                       no_training='judges, image by image')}
