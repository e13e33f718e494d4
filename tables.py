"""The words that options may be, each with its owner: what ``settings`` leaves to the rooms that have the things."""
import argparse

import smooth_activations
from adv_model import PRECISIONS
from attacks.balls import BALLS
from attacks.parts import TARGETS
from attacks.registry import KINDS
from data.policies import POLICIES
from data.subsets import SUBSETS
from data.views import AUGMENTATIONS
from layers.scaling import INPUT_SCALINGS
from nets import ARCHITECTURES, SIZE_NAMES, usual
from resnet_model import PADDINGS
from settings.flags import Named
from settings.recipes import RECIPES
from settings.threat_models import parse as threat_models
from training.optimizers import OPTIMIZERS, warmup_starts


def activation_name(text, choices=smooth_activations.NAMES):
    """An activation as flags name it, checked and in its canonical spelling."""
    try:
        name, _ = smooth_activations.parse_name(text, choices)
    except ValueError as error:
        raise argparse.ArgumentTypeError(error)
    return name + text[text.index(':'):] if ':' in text else name


def _slope_name(text):
    return activation_name(text, smooth_activations.SLOPE_NAMES)


# By the name that an option's check has (``settings.fields.Check``).
TABLES = {'networks': Named(ARCHITECTURES), 'sizes': Named(SIZE_NAMES),
          'input scalings': Named(INPUT_SCALINGS), 'paddings': Named(PADDINGS),
          'activations': Named(smooth_activations.NAMES, activation_name),
          'slopes': Named(smooth_activations.SLOPE_NAMES, _slope_name),
          'optimizers': Named(OPTIMIZERS), 'precisions': Named(PRECISIONS),
          'attacks': Named(KINDS, explain=lambda word: KINDS[word].help),
          'targets': Named(TARGETS), 'norms': Named(BALLS),
          'threat models': Named(BALLS, lambda text: threat_models(text, BALLS)),
          'augmentations': Named(AUGMENTATIONS), 'policies': Named(POLICIES),
          'subsets': Named(SUBSETS, explain=lambda word: SUBSETS[word].help),
          'recipes': Named(RECIPES)}


def told():
    """What else the help of options says of the things: by destination, for ``{told}``."""
    return {'warmup_epochs': warmup_starts(), **{name: usual(name) for name in ('depth', 'model_name', 'input_size')}}
