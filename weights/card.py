"""What names and shapes of weights cannot tell of their network, in a small JSON text that travels with the weights.

It stands in ``<prefix>.network.json`` beside a TensorFlow checkpoint, and in an .npz in the array ``stored.ENTRY``.
"""
import argparse
import os

import numpy as np

import nets
from files.checksums import with_checksum, without_checksum
from files.typed import Malformed, list_of, number, one_of, optional, parse, record, text, truth
from machine.versions import source_version
from settings import sections
from settings.fields import WORD
from settings.resolve import options_of_some
from tables import TABLES
from weights.stored import ENTRY

ENDING = '.network.json'
_FORMAT = 1
_MOST = 1 << 20  # classes
_LONGEST = 1 << 24  # bytes of a file


# A flag that decides how a network is judged or trained, and not what it is.
_RECIPE = 'recipe'
# A card lacks it where no value is given, as those of residual networks did before they had the option.
_MAYBE = 'input_scaling'


def _names(arch, model_name):
    """Names of the flags that say what a network of this architecture is: those that all have, and those of some."""
    lacking = options_of_some(nets.ARCHITECTURES).difference(nets.architecture_defaults(arch, model_name))
    return [option.dest for option in sections.written() if option.dest not in lacking]


def _check():
    """How a card is checked; the networks and the words of options are those that there are now."""
    values = {option.dest: _word(option.flag.check) if option.written == WORD else option.written
              for option in sections.written()}
    return record({
        'format': one_of(_FORMAT), 'flags': record(values, maybe=options_of_some(nets.ARCHITECTURES)),
        'moving_average_decay': number(0, 1 - 1e-9), 'channel_order': one_of('BGR', 'RGB'),
        'classes': optional(list_of(text(1000), _MOST)), 'commit': optional(text(100)), 'changed': optional(truth)})


def _word(table):
    words = TABLES[table]

    def check(value, where):
        if words.parse is None:
            return one_of(*words.words)(value, where)
        try:
            words.parse(text(100)(value, where))
        except argparse.ArgumentTypeError as error:
            raise Malformed('{}: {}'.format(where, error)) from None
        return value
    return check


def make(args, classes):
    """The card of a network.

    Args:
        args: resolved flags, with ``moving_average_decay``: 0 where there are no averages beside the weights.
        classes (list of str): in label order; None if not known.
    Returns:
        dict, JSON-ready.
    """
    flags = {name: getattr(args, name) for name in _names(args.arch, args.model_name)
             if name != _MAYBE or getattr(args, name) is not None}
    return {'format': _FORMAT, 'flags': flags, 'moving_average_decay': args.moving_average_decay,
            'channel_order': nets.channel_order(args.arch, args.input_scaling),
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
        card = parse(without_checksum(content.strip()), _check(), where)
    except Malformed as error:
        raise ValueError('{} is damaged or of another program ({})'.format(where, error)) from None
    flags = card['flags']
    try:
        names = _names(flags['arch'], flags.get('model_name'))
    except ValueError as error:
        raise ValueError('{}: {}'.format(where, error)) from None
    wrong = sorted((set(names) ^ set(flags)) - ({_MAYBE} if _MAYBE in names else set()))
    if wrong:
        raise ValueError('{}: {} {}'.format(where, 'lacks' if wrong[0] in names else 'has an unknown', wrong[0]))
    order = nets.channel_order(flags['arch'], flags.get(_MAYBE))
    if card['channel_order'] != order:
        raise ValueError('{}: channel order {}, and {} here takes {}'.format(
            where, card['channel_order'], flags['arch'], order))
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
