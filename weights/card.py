"""What names and shapes of weights cannot tell of their network, in a small JSON text that travels with the weights.

It stands in ``<prefix>.network.json`` beside a TensorFlow checkpoint, and in an .npz in the array ``stored.ENTRY``.
"""
import os

import numpy as np

import nets
import smooth_activations
from efficientnet.scaling import SIZES
from files.checksums import with_checksum, without_checksum
from files.typed import Malformed, list_of, number, one_of, optional, parse, record, text, truth, whole
from machine.versions import source_version
from resnet_model import PADDINGS
from settings.recipes import RECIPES
from weights.stored import ENTRY

ENDING = '.network.json'
_FORMAT = 1
_MOST = 1 << 20  # classes, layers, pixels
_LONGEST = 1 << 24  # bytes of a file


def _activation(value, where):
    try:
        smooth_activations.parse_name(text(100)(value, where))
    except ValueError as error:
        raise Malformed('{}: {}'.format(where, error)) from None
    return value


# Flags that say what the network is, and how a card's values are checked. Those that all networks have; and those of
# which each has what its architecture has.
_OF_ALL = {'arch': one_of(*nets.ARCHITECTURES), 'recipe': one_of(*RECIPES), 'activation_name': _activation,
           'batch_norm_epsilon': number(1e-12, 1)}
_OF_SOME = {'depth': whole(1, _MOST), 'res2_bottleneck': whole(1, _MOST), 'group': whole(1, _MOST),
            'model_name': one_of(*SIZES), 'width_coefficient': number(1e-3, 1e3),
            'depth_coefficient': number(1e-3, 1e3), 'num_classes': whole(2, _MOST), 'input_size': whole(8, _MOST),
            'input_scaling': one_of(*nets.INPUT_SCALINGS), 'padding': one_of(*PADDINGS)}
_CARD = record({'format': one_of(_FORMAT), 'flags': record({**_OF_ALL, **_OF_SOME}, maybe=tuple(_OF_SOME)),
                'moving_average_decay': number(0, 1 - 1e-9), 'channel_order': one_of('BGR', 'RGB'),
                'classes': optional(list_of(text(1000), _MOST)), 'commit': optional(text(100)),
                'changed': optional(truth)})
# A flag that decides how a network is judged or trained, and not what it is.
_RECIPE = 'recipe'


def _names(arch, model_name):
    """Names of the flags that say what a network of this architecture is."""
    of_arch = nets.architecture_defaults(arch, model_name)
    return [*_OF_ALL, *(name for name in _OF_SOME if name in of_arch)]


def channel_order(arch):
    """'BGR' or 'RGB': what networks of an architecture take."""
    return getattr(nets, arch + 'Model').channels


def make(args, classes):
    """The card of a network.

    Args:
        args: resolved flags, with ``moving_average_decay``: 0 where there are no averages beside the weights.
        classes (list of str): in label order; None if not known.
    Returns:
        dict, JSON-ready.
    """
    return {'format': _FORMAT, 'flags': {name: getattr(args, name) for name in _names(args.arch, args.model_name)},
            'moving_average_decay': args.moving_average_decay, 'channel_order': channel_order(args.arch),
            'classes': None if classes is None else list(classes), **source_version()}


def as_text(card):
    return with_checksum(card) + '\n'


def as_entry(card):
    """The card as an array that may stand among the variables of an .npz: {name: uint8 [n]}."""
    return {ENTRY: np.frombuffer(as_text(card).encode(), np.uint8)}


def read(stored):
    """The card of a checkpoint.

    Args:
        stored (Stored).
    Returns:
        dict, as of ``make``; None where there is no card.
    Raises:
        ValueError: it is damaged, of another program, or of a network that is not here.
    """
    path = stored.path + ENDING
    if stored.entry is not None:
        return _parse(stored.entry, "'{}' in '{}'".format(ENTRY, stored.path))
    if stored.path.endswith(('.npz', '.npy')) or not os.path.isfile(path):
        return None
    with open(path, 'rb') as f:
        return _parse(f.read(_LONGEST), "'{}'".format(path))


def _parse(content, where):
    try:
        card = parse(without_checksum(content.strip()), _CARD, where)
    except Malformed as error:
        raise ValueError('{} is damaged or of another program ({})'.format(where, error)) from None
    flags = card['flags']
    names = _names(flags['arch'], flags.get('model_name'))
    wrong = sorted(set(names) ^ set(flags))
    if wrong:
        raise ValueError('{}: {} {}'.format(where, 'lacks' if wrong[0] in names else 'has an unknown', wrong[0]))
    if card['channel_order'] != channel_order(flags['arch']):
        raise ValueError('{}: channel order {}, and {} here takes {}'.format(
            where, card['channel_order'], flags['arch'], channel_order(flags['arch'])))
    return card


def binding(card, training):
    """Names of the flags that the card decides: of the network alone for ``training``."""
    return [name for name in card['flags'] if not (training and name == _RECIPE)]


def words(card, training):
    """The card as flags, to be parsed before those that are typed; list of str."""
    values = {name: card['flags'][name] for name in binding(card, training)}
    if not training:
        values['moving_average_decay'] = card['moving_average_decay']
    return ['--{}={}'.format(name.replace('_', '-'), value) for name, value in values.items()]
