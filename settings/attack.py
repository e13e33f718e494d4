"""An attack: one type, of which a training has two, that of the training itself and that of its evaluations."""
import dataclasses
from typing import ClassVar, Optional

from settings import checks, lengths
from settings.fields import SWITCH, Flag, option
from settings.modes import ATTACKED, EVAL, EVALUATED, JUDGED, TRAINED, TRAINED_ON_IMAGES

LINF = 'Linf'
KIND = 'pgd'  # of evaluations where no other is asked for, always of those during training; of 0 steps, no attack
_EVALUATION = 'evaluation attacker'


@dataclasses.dataclass(frozen=True)
class Attack:
    """What is done to an image before a network is shown it; lengths in pixel levels, 0-255, in every norm."""
    GROUP: ClassVar[str] = 'attacker'

    kind: str = option(
        '--attack', ATTACKED,
        'in training by default that of the recipe; evaluations on the way have pgd. {explained} (default: pgd)',
        default=KIND, late=True, check='attacks', fixes_run=True,
        brief='{names}',
        called=('--attack-name', '--attack-type', '--adversary', '--attacker'),
        meant={
            'pgd-?(\\d+)': 'pgd --attack-iter {0}', 'bim|i-?fgsm': 'pgd', 'm(?:i)?-?i?fgsm|mim': 'momentum',
            'aa|auto-attack|standard': 'autoattack',
            '(square|fab-?t?|apgd-ce|apgd-t|apgd-dlr)': 'autoattack --autoattack-version {0}',
            'none|clean|no': 'pgd --attack-iter 0'})
    norm: str = option(
        '--norm', ATTACKED,
        'in which radius and steps are measured, also of the evaluations during training; L2 and L1 over all pixels '
        'and channels of an image, so that 0.5 for images in [0, 1] is 127.5 pixel levels (default: Linf)',
        default=LINF, late=True, check='norms', fixes_run=True, shared=True,
        brief='of its radius: {names} (default: Linf)',
        called=('--attack-norm', '--constraint', '--ord', '--lp'),
        meant={'l?-?inf(?:inity)?': 'Linf', '([12])': 'L{0}'})
    version: Optional[str] = option(
        '--autoattack-version', EVALUATED,
        'standard, apgd (the first two attacks of standard), plus, rand, or a list of attacks such as apgd-ce,square, '
        'with restarts of their own (default: standard)', default=None, unit='VERSION',
        called=('--aa-version',))
    num_iter: int = option(
        '--attack-iter', ATTACKED,
        "steps of pgd, momentum or apgd, 0 for no attack (default: the recipe's, 1, 2 or 30; with --eval 10 or 30)",
        check=checks.at_least(0), unit='STEPS', fixes_run=True,
        judging=Flag(('--eval-attack-iter',), JUDGED, 'steps of the evaluations during training and of --eval '
                     '(default: 10; of --eval with feature-denoising 30)', checks.at_least(1), 'STEPS', _EVALUATION),
        brief='steps of the attack, 0 for none',
        called=(
            '--steps', '--num-steps', '--iters', '--iterations', '--num-iter', '--nb-iter', '--attack-steps',
            '--attack-iters', '--pgd-steps', '--n-iter'))
    epsilon: float = option(
        '--attack-epsilon', ATTACKED, "radius (default: the recipe's, 4 or 16; none in L2 and L1)",
        check=lengths.parse, unit='PIXELS', fixes_run=True,
        judging=Flag(('--eval-attack-epsilon',), TRAINED_ON_IMAGES, "radius during training (default: the training "
                     "attack's)", lengths.parse, 'PIXELS', _EVALUATION, instead={EVAL: '--attack-epsilon'}),
        brief='radius, of 255: 4 or 4/255',
        called=(
            '-e', '--eps', '--epsilon', '--radius', '--attack-eps', '--train-eps', '--clip-eps', '--eval-epsilon'))
    step_size: float = option(
        '--attack-step-size', ATTACKED,
        "length of a step, raised to epsilon / steps where that is more (default: the recipe's, 4 or 1; 1 with --eval "
        'or another number of steps than its; 2.5 epsilon / steps in L2 and L1; epsilon / steps for momentum)',
        check=lengths.parse, unit='PIXELS', fixes_run=True,
        judging=Flag(('--eval-attack-step-size',), TRAINED_ON_IMAGES, 'length of a step during training (default: 1)',
                     lengths.parse, 'PIXELS', _EVALUATION, instead={EVAL: '--attack-step-size'}),
        called=(
            '--alpha', '--step-size', '--stepsize', '--eps-step', '--attack-lr', '--attack-alpha', '--eps-iter',
            '--fgsm-step'))
    targeted: bool = option(
        '--targeted', ATTACKED, "aim at a random wrong label (default: the recipe's; feature-denoising does)",
        check=SWITCH, off=('--untargeted', 'away from the true label'), fixes_run=True, shared=True)
    target: str = option(
        '--attack-target', EVALUATED,
        'of --eval: none is --untargeted, random is --targeted, least-likely aims at the wrong label that the network '
        'gives the lowest score on the clean image', default='none', late=True, check='targets',
        shared=True)
    early_stop: bool = option(
        '--early-stop', EVALUATED,
        'of --eval with pgd or momentum: leave an image where the attack first succeeds on it, be it the start, and '
        "spend no more steps there; the verdict is then 'success at any step', not that of the last step",
        default=False, check=SWITCH)
    prob_start_from_clean: float = option(
        '--prob-start-from-clean', TRAINED,
        'probability that the training attack, pgd, of an image starts from the image itself instead of a random '
        "point (default: the recipe's, 0.2 or 0)", default=0.0, check=checks.probability, unit='P', fixes_run=True)
    precision: Optional[str] = option(
        '--attack-precision', ATTACKED,
        'what the network computes in under attack; all else stays float32 (default: float32; bfloat16 in training '
        "where all ranks are on CPUs that are faster in it; with --resume the run's own)", default=None,
        check='precisions', fixes_run=True, decides_verdict=True,
        meant={'fp16|half': 'float16', 'bf16': 'bfloat16', 'fp32|full': 'float32'})
    xla: bool = option('--xla', ATTACKED, "let XLA compile the attack's steps: for GPUs", default=False, late=True,
                       check=SWITCH)
    use_fp16xla: bool = option('--use-fp16xla', ATTACKED, 'the same as --attack-precision float16 --xla', default=False,
                               late=True, check=SWITCH,
        called=('--amp', '--fp16', '--half', '--mixed-precision'))
    gradient: Optional[str] = option(
        '--attack-gradient', ATTACKED,
        "activation whose derivative the attacker's gradient takes (default: the network's own)", default=None,
        check='slopes', unit='NAME', fixes_run=True, decides_verdict=True)
