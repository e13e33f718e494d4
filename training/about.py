"""What a run is, in words: its network, its attacks, and the flags in which it differs from its recipe."""
import os
import types
from typing import List, NamedTuple, Optional, Tuple

from nets import architecture_defaults, network_name
from settings import sections
from settings.recipes import RECIPES, names
from settings.run import TENSORBOARD


class About(NamedTuple):
    """What does not change in a run.

    heading (str): network and data. lead (str): how it is trained. recipe (str): its name. differing: see there.
    judged_by (str): the evaluations' attack with its threat model, None in a run without evaluations.
    trained_on (str): what training images are, 'clean' or 'attacked by PGD-1'.
    epochs (int), steps_per_epoch (int), eval_every (int). averages (bool): whether the weights are averaged.
    tensorboard (bool): whether it is told of the run.
    """
    heading: str
    lead: str
    recipe: str
    differing: List[Tuple[str, str, str]]
    judged_by: Optional[str]
    trained_on: str
    epochs: int
    steps_per_epoch: int
    eval_every: int
    averages: bool
    tensorboard: bool


def about(settings, flags, attacker, watching):
    """What a run is.

    Args:
        settings (Settings), flags (dict): as of ``run_training``.
        attacker: of the training. watching: of the evaluations, or None.
    """
    lead = 'Recipe {}. Attack in training: {}; in evaluations: {}.{} {} of {} images in a step, {} epochs of {} ' \
           'steps, seed {}.'.format(
               settings.run.recipe, in_words(attacker, settings.training_attack.precision),
               in_words(watching) if watching else 'there are none',
               '' if settings.update.precision in (None, 'float32') else
               ' Update: {}.'.format(update_in_words(settings.update.precision)),
               '1 rank' if flags['ranks'] == 1 else '{} ranks'.format(flags['ranks']), settings.data.batch,
               settings.schedule.epochs, settings.schedule.steps_per_epoch, settings.run.seed)
    return About(heading(flags), lead, settings.run.recipe, differing(flags), watching and in_words(watching),
                 'attacked by ' + attacker.name if attacker.parts else 'clean', settings.schedule.epochs,
                 settings.schedule.steps_per_epoch, settings.evaluation.eval_every,
                 settings.run.moving_average_decay > 0, TENSORBOARD in settings.run.track)


def heading(flags):
    """Network and data; ``flags`` (dict) as of ``run_training``."""
    data = 'constant data' if flags['fake'] else os.path.basename(os.path.normpath(flags['data'])) if flags['data'] \
        else 'handwritten digits'
    return '{} on {}'.format(network_name(types.SimpleNamespace(**flags)), data)


def in_words(attacker, precision='float32'):
    """An attack in some words, lengths in pixel levels; ``precision``: what the network computes in under it."""
    if not attacker.parts:
        return 'none: clean images'
    what = attacker.describe()
    words = [attacker.name, attacker.norm, 'epsilon {:g}'.format(attacker.epsilon)]
    if what.get('step_size'):
        words.append('steps of {:g}'.format(what['step_size']))
    words += ['targeted'] * bool(what.get('targeted'))
    return ', '.join(words + ['in {}'.format(precision)] * ((precision or 'float32') != 'float32'))


def update_in_words(precision):
    """What the weights' gradients are computed in, in some words."""
    return 'gradients computed in {}, weights kept in float32'.format(precision)


def differing(flags):
    """What decides this training and is not the usual.

    Returns:
        list of (flag, value here, value of the recipe or the network's own, '' where these have none), all str.
    """
    usual = {**architecture_defaults(flags['arch'], flags['model_name']), **RECIPES[flags['recipe']]}
    decided, found = names(), []
    for option in sections.options():
        if option.dest not in decided and not option.fixes_run:
            continue
        value, before = flags.get(option.dest), usual.get(option.dest, option.default)
        if value is not None and _shown(value) != _shown(before):  # JSON has made lists of tuples
            found.append((option.flag.names[-1], _shown(value),
                          _shown(before) if option.dest in usual and before is not None else ''))
    return found


def _shown(value):
    if isinstance(value, bool):
        return 'on' if value else 'off'
    if isinstance(value, (list, tuple)):
        return ','.join(map(_shown, value)) or 'none'
    return '{:g}'.format(value) if isinstance(value, float) else str(value)
