"""What a run is, in words: its network, its attacks, and the flags in which it differs from its recipe."""
import os
import re
import types
from typing import Callable, List, NamedTuple, Optional, Tuple

from nets import architecture_defaults, network_name
from settings import sections
from settings.recipes import RECIPES, names


class About(NamedTuple):
    """What does not change in a run.

    heading (str): network and data. lead (str): how it is trained. recipe (str): its name. differing: see there.
    judged_by (str): the evaluations' attack with its threat model, None in a run without evaluations.
    title_of: a name of an attack as of ``Judged`` -> its name where people read it.
    trained_on (str): what training images are, 'clean' or 'attacked by PGD-1'.
    epochs (int), steps_per_epoch (int), eval_every (int).
    """
    heading: str
    lead: str
    recipe: str
    differing: List[Tuple[str, str, str]]
    judged_by: Optional[str]
    title_of: Callable[[str], str]
    trained_on: str
    epochs: int
    steps_per_epoch: int
    eval_every: int


def about(settings, flags, attacker, watching, make_attacker):
    """What a run is.

    Args:
        settings (Settings), flags (dict), make_attacker: as of ``run_training``.
        attacker: of the training. watching: of the evaluations, or None.
    """
    lead = 'Recipe {}. Trained under {}; judged under {}. {} of {} images in a step, {} epochs of {} steps, ' \
           'seed {}.'.format(
               settings.run.recipe, in_words(attacker), in_words(watching) if watching else 'nothing',
               '1 rank' if flags['ranks'] == 1 else '{} ranks'.format(flags['ranks']), settings.data.batch,
               settings.schedule.epochs, settings.schedule.steps_per_epoch, settings.run.seed)
    return About(heading(flags), lead, settings.run.recipe, differing(flags), watching and in_words(watching),
                 lambda attack: title_of(attack, make_attacker),
                 'attacked by ' + attacker.name if attacker.parts else 'clean', settings.schedule.epochs,
                 settings.schedule.steps_per_epoch, settings.evaluation.eval_every)


def heading(flags):
    """Network and data; ``flags`` (dict) as of ``run_training``."""
    data = 'constant data' if flags['fake'] else os.path.basename(os.path.normpath(flags['data'])) if flags['data'] \
        else 'handwritten digits'
    return '{} on {}'.format(network_name(types.SimpleNamespace(**flags)), data)


def in_words(attacker):
    """An attacker with its threat model, in pixel levels."""
    return '{}, {}, epsilon {:g}'.format(attacker.name, attacker.norm, attacker.epsilon) if attacker.parts \
        else 'no attack'


def title_of(attack, make_attacker):
    """The name of an evaluation's attack where people read it.

    Args:
        attack (str): as of ``training.epochs.Judged``. make_attacker: (num_iter) -> attacker of the evaluations.
    """
    steps = re.fullmatch(r'(\d+)step', attack)
    return make_attacker(int(steps[1])).name if steps else attack


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
