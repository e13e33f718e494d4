"""What the flags of an attack decide together, and which of them cannot stand together.

All functions are of the namespace that argparse makes, and raise ValueError with what to say.
"""
from typing import Any, Callable, List, Mapping, Optional, Protocol, Sequence, Tuple

from settings import flags, lengths, sections
from settings.attack import KIND, LINF, Attack
from settings.fields import options_of
from settings.recipes import Recipe

# (norm, number of steps, radius, PGD's step in L-infinity) -> length of a step where none is given
StepSize = Callable[[str, int, float, float], float]


class Kind(Protocol):
    """What is known of a kind of attack before it is made: see ``attacks.registry.Kind``."""

    @property
    def step_size(self) -> Optional[StepSize]: ...

    @property
    def without(self) -> Tuple[str, ...]: ...

    @property
    def values(self) -> Mapping[str, Any]: ...

    @property
    def num_iter(self) -> Optional[int]: ...

    @property
    def no_early_stop(self) -> Optional[str]: ...

    @property
    def no_training(self) -> Optional[str]: ...


def _destinations(fields: Sequence[str]) -> List[str]:
    """Of the flags of some fields of ``Attack``, in the order of the fields; each field's own flag first."""
    return [option.dest for field in fields for option in options_of(Attack) if option.field == field]


def default(args: Any, name: str, value: Any) -> None:
    """Set a value that is None so far."""
    if getattr(args, name) is None:
        setattr(args, name, value)


def take_lengths(args: Any) -> None:
    """Turn typed lengths into pixel levels; refuse those of images in [0, 1] in L-infinity."""
    for option in sections.options():
        length = getattr(args, option.dest)
        if option.flag.check is not lengths.parse or length is None:
            continue
        slip = lengths.slip(length) if args.norm in (None, LINF) else None
        if slip:
            raise ValueError('{} {}'.format(option.flag.names[-1], slip))
        setattr(args, option.dest, length.levels)


def check_kind(args: Any, kinds: Mapping[str, Kind], recipe: Recipe) -> None:
    """Refuse flags that the attack does not have, while only typed ones are set; then set what needs no lengths.

    ``kinds`` (dict): of attacks, by the name that --attack gives. ``recipe``: which has the kind of a training.
    """
    usual = KIND if args.eval or args.eval_directory else recipe.attack
    default(args, 'attack', usual)
    kind = kinds[args.attack]
    if kind.no_training and not (args.eval or args.eval_directory):
        raise ValueError('--attack {}: {}, and trains nothing; choose from {}'.format(
            args.attack, kind.no_training, ', '.join(name for name, each in kinds.items() if not each.no_training)))
    if args.threat_models:
        for name in ('norm', 'attack_epsilon', 'attack_step_size'):
            if getattr(args, name) is not None:
                raise ValueError('{} and --threat-models: choose one; each threat model has a norm, a radius and steps '
                                 'of its own'.format(flags.spelling(name, getattr(args, name))))
    for name in _destinations(kind.without):
        # In training the flags of the evaluations on the way are of another attack.
        if getattr(args, name) is not None and (args.eval or not name.startswith('eval_')):
            raise ValueError('--attack {} has no {}'.format(args.attack, flags.spelling(name, getattr(args, name))))
    if args.use_fp16xla:
        if args.attack_precision not in (None, 'float16'):
            raise ValueError('--use-fp16xla and --attack-precision {}: choose one'.format(args.attack_precision))
        args.attack_precision, args.xla = 'float16', True
    args.xla, args.use_fp16xla = bool(args.xla), bool(args.use_fp16xla)
    if args.attack_target is not None:
        if args.targeted not in (None, args.attack_target != 'none'):
            raise ValueError('--{} and --attack-target {}: choose one'.format(
                'targeted' if args.targeted else 'untargeted', args.attack_target))
        args.targeted = args.attack_target != 'none'
    _check_steps(args, kind, usual)
    if args.norm in ('L2', 'L1') and args.attack_epsilon is None:
        raise ValueError('--norm {} needs --attack-epsilon, in pixel levels: {} times that for images in [0, 1]'.format(
            args.norm, lengths.LEVELS))
    default(args, 'norm', LINF)
    for field, value in kind.values.items():
        default(args, _destinations([field])[0], value)


def _check_steps(args: Any, kind: Kind, usual: str) -> None:
    of_eval = args.eval and args.eval_attack_iter is not None
    steps = args.eval_attack_iter if of_eval else args.attack_iter
    for flag, typed in (('--attack {}'.format(args.attack), args.attack not in (KIND, usual)),
                        # Of a training on clean images, that of its evaluations.
                        ('--norm {}'.format(args.norm), args.norm if args.eval else None),
                        ('--threat-models', args.threat_models)):
        if typed and steps == 0:
            raise ValueError('{} without steps: give --attack-iter of 1 or more'.format(flag))
    if not args.early_stop:
        return
    for typed, why in ((kind.no_early_stop, '--attack {} {}'.format(args.attack, kind.no_early_stop)),
                       (steps == 0, '--attack-iter 0 has no steps'),
                       (args.xla, '--xla compiles for one size of a batch, and this shrinks it'),
                       (args.attack_precision not in (None, 'float32'),
                        'what succeeds in {} need not in float32'.format(args.attack_precision))):
        if typed:
            raise ValueError('--early-stop: {}; leave it out'.format(why))


def settle(args: Any, recipe: Recipe, epsilon: Optional[float], kinds: Mapping[str, Kind]) -> None:
    """Set steps and their length where the recipe's own do not fit.

    Args:
        args: ``eval`` and the attack's values. epsilon (float): that was typed.
        kinds (dict): see ``check_kind``.
    """
    kind, radius = kinds[args.attack], recipe.attack_epsilon if epsilon is None else epsilon
    if not args.eval:
        _settle_training(args, recipe, radius, kinds)
        return
    # The SAT release has --eval-attack-iter, the Feature Denoising release --attack-iter.
    if args.eval_attack_iter is not None:
        args.attack_iter = args.eval_attack_iter
    default(args, 'attack_iter', kind.num_iter or recipe.judged_steps)
    if args.attack_iter and kind.step_size:
        default(args, 'attack_step_size', kind.step_size(args.norm, args.attack_iter, radius,
                                                         recipe.eval_attack_step_size))
    default(args, 'attack_step_size', recipe.eval_attack_step_size)
    default(args, 'attack_precision', 'float32')  # so that it has the same verdicts on every machine


def _settle_training(args: Any, recipe: Recipe, radius: float, kinds: Mapping[str, Kind]) -> None:
    kind, judging = kinds[args.attack], kinds[KIND]
    assert kind.step_size and judging.step_size  # of the kinds that train, and that watch a training
    default(args, 'attack_iter', kind.num_iter)
    steps = recipe.attack_iter if args.attack_iter is None else args.attack_iter
    # The training step belongs to the training attack and number of steps: SAT's 4 crosses the ball in one.
    if (args.attack, args.norm, steps) != (recipe.attack, LINF, recipe.attack_iter) or 'step_size' in kind.without:
        default(args, 'attack_step_size', kind.step_size(args.norm, steps, radius, recipe.eval_attack_step_size)
                if steps else recipe.eval_attack_step_size)
    if args.norm != LINF:
        default(args, 'eval_attack_step_size', judging.step_size(
            args.norm, args.eval_attack_iter or recipe.eval_attack_iter, args.eval_attack_epsilon or radius,
            recipe.eval_attack_step_size))


def take_threat_models(args: Any, recipe: Recipe, kind: Kind) -> None:
    """Give each threat model its steps; the namespace then has no other norm and lengths. Last of all."""
    if args.threat_models:
        steps = kind.step_size
        args.threat_models = tuple(each._replace(step_size=steps and steps(
            each.norm, args.attack_iter, each.epsilon, recipe.eval_attack_step_size)) for each in args.threat_models)
        args.norm = args.attack_epsilon = args.attack_step_size = None


def note_unused(args: Any, epsilon: Optional[float], step_size: Optional[float]) -> None:
    """Note the typed lengths of an attack of no steps in training (FD's standard training has an epsilon)."""
    judged = '' if args.fake or args.eval_attack_epsilon is not None else '; its evaluations attack with it'
    for name, value, use in (('attack_epsilon', epsilon, judged), ('attack_step_size', step_size, '')):
        if value:
            args.notes += '{} {:g} is not used: --attack-iter 0 trains on clean images{}'.format(
                flags.spelling(name, value), value, use),


def check_lengths(args: Any) -> None:
    """Refuse a radius and steps that are no attack."""
    for prefix in ('',) if args.eval else ('', 'eval-'):
        field = prefix.replace('-', '_') + 'attack_'
        if getattr(args, field + 'iter') == 0:
            continue
        if not 0 < getattr(args, field + 'epsilon') <= (lengths.LEVELS if args.norm == LINF else float('inf')):
            raise ValueError('--{}attack-epsilon {:g}: an attack needs a radius in (0, {}] pixel levels'.format(
                prefix, getattr(args, field + 'epsilon'), lengths.LEVELS if args.norm == LINF else 'infinity'))
        if not getattr(args, field + 'step_size') > 0:
            raise ValueError('--{}attack-step-size 0: an attack needs a positive step'.format(prefix))
