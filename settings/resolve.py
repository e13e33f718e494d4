"""From the namespace that argparse makes to settings: what a network and a recipe decide, and what is left to refuse.

A value is looked for in this order: typed; of the checkpoint; what other options decide; of the recipe; the option's
default. Functions that take ``args``, the namespace, raise ValueError with what to say.
"""
import types
from typing import Any, Callable, Container, Mapping, Optional, Protocol, Set, Tuple

from settings import sections
from settings.attacking import default
from settings.fields import for_evaluations, options_of, section_of
from settings.modes import EVAL
from settings.network import Network
from settings.recipes import RECIPES, Recipe, names
from settings.run import CSV, RELEASED, TENSORBOARD
from settings.sections import Settings


class Kind(Protocol):
    """What is known of a kind of network before it is built: see ``architectures.entry.Architecture``."""

    @property
    def recipe(self) -> str: ...

    @property
    def depths(self) -> Tuple[int, ...]: ...

    @property
    def activation(self) -> Optional[str]: ...

    @property
    def check(self) -> Callable[[Any], None]: ...

    def defaults(self, model_name: Optional[str] = None) -> Mapping[str, Any]: ...


def take_network(args: Any, kinds: Mapping[str, Kind]) -> None:
    """Fill in what the network and, for it, the recipe decide, and check that the network exists.

    Args:
        args: with the flags of the group 'architecture', and ``moving_average_decay``.
        kinds (dict): by the name that --arch gives.
    """
    kind = kinds[args.arch]
    default(args, 'recipe', kind.recipe)
    own = kind.defaults(args.model_name)
    of_some = sorted(options_of_some(kinds))
    for name in of_some:
        if name in own:
            default(args, name, own[name])
        elif getattr(args, name) is not None:
            raise ValueError('--{}: --arch {} has none'.format(name.replace('_', '-'), args.arch))
    if 'depth' in own and args.depth not in kind.depths:
        raise ValueError('--depth {}: choose from {} for --arch {}'.format(
            args.depth, ', '.join(map(str, sorted(kind.depths))), args.arch))
    default(args, 'activation_name', kind.activation)
    kind.check(args)
    of_network = {option.dest for option in options_of(Network)} | {'moving_average_decay'}
    wanted = of_network.difference(of_some).union(own)
    _take(args, wanted, RECIPES[args.recipe])
    _take(args, wanted, RECIPES[kind.recipe])  # where a recipe leaves the network as it is


def options_of_some(kinds: Mapping[str, Kind]) -> Set[str]:
    """Names of the options that networks have by their kind alone."""
    return {name for kind in kinds.values() for name in kind.defaults()}


def take_recipe(args: Any) -> None:
    """Fill in what the recipe decides of all but the network, and then the options' own defaults."""
    recipe = RECIPES[args.recipe]
    if args.epochs not in (None, recipe.epochs):
        for name, value in recipe.otherwise.items():
            default(args, name, value)
    _take(args, set(names()).difference(option.dest for option in options_of(Network)), recipe)
    if args.attack_target is None:
        args.attack_target = 'random' if args.targeted else 'none'
    for option in sections.options():
        default(args, option.dest, option.default)


def _take(args: Any, wanted: Container[str], recipe: Recipe) -> None:
    for name, value in recipe.items():
        if name in wanted:
            default(args, name, value)


def take_outputs(args: Any) -> None:
    """Fill in who follows a run; the format of predictions, which their file's name may tell, and that name."""
    default(args, 'track', () if args.eval or args.eval_directory else (TENSORBOARD,))
    default(args, 'prediction_format', RELEASED if (args.prediction_file or '').endswith('.txt') else CSV)
    default(args, 'prediction_file', 'predictions.' + ('txt' if args.prediction_format == RELEASED else 'csv'))


def check(args: Any) -> None:
    """Refuse options of a run that contradict each other."""
    if (args.eval or args.eval_directory) and not args.load:
        raise ValueError('{} needs --load CHECKPOINT'.format('--eval' if args.eval else '--eval-directory'))
    if args.resume and (args.load or args.starting_epoch > 1):
        raise ValueError("--resume takes the run's own checkpoint and epoch; leave out --load and --starting-epoch")
    if args.starting_epoch > 1 and not args.load:
        raise ValueError('--starting-epoch {} needs --load CHECKPOINT, the weights at its start'.format(
            args.starting_epoch))
    if args.new_classifier and not args.load:
        raise ValueError('--new-classifier needs --load CHECKPOINT, which the other layers are from; a run with one '
                         'goes on with --resume-if-any added to its command')
    if args.new_classifier and args.starting_epoch > 1:
        raise ValueError('--starting-epoch {}: with --new-classifier the steps begin anew; leave it out'.format(
            args.starting_epoch))
    if args.starting_epoch > args.epochs:
        raise ValueError('--starting-epoch {} is after --epochs {}'.format(args.starting_epoch, args.epochs))
    if args.stop_when_overfitting and args.attack_iter == 0:
        raise ValueError('--stop-when-overfitting: a training without an attack (--attack-iter 0) overfits none; leave '
                         'it out')
    if args.batch % args.accumulate:
        raise ValueError('--accumulate {}: --batch {} is no multiple of it'.format(args.accumulate, args.batch))


def resolve(args: Any) -> Settings:
    """The settings of a namespace in which everything is decided (``main.parse_args``); frozen."""
    values, parts = vars(args), sections.sections()
    kind = parts.pop('training_attack')
    parts.pop('evaluation_attack')
    training = None if args.eval or args.eval_directory else section_of(kind, values)
    judging = for_evaluations(training, values) if training else section_of(kind, values, EVAL)
    return sections.ALL(training_attack=training, evaluation_attack=judging,
                        **{name: section_of(section, values) for name, section in parts.items()})


def flat(*parts: Any) -> types.SimpleNamespace:
    """The fields of some sections as attributes of one object, as networks and cards take them."""
    return types.SimpleNamespace(**{name: value for part in parts for name, value in vars(part).items()})
