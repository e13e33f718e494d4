"""The flags that a checkpoint brings: those of its card, or of the published model that it is, as defaults."""
import os
import sys

import checkpoints
from third_party.utils import launched_rank
from weights import card as cards, identity
from weights.identity import AVERAGE, describe, network_of_flags, network_of_words, network_part
from zoo import published


def add_ignore_flag(group):
    """Add the flag without which typed flags may not contradict a checkpoint's card."""
    group.add_argument('--ignore-checkpoint-flags', action='store_true',
                       help='typed flags win over what the checkpoint says of its network, and the data need not have '
                            'its classes; without it a contradiction is refused')


def parse_with_checkpoint(parser, argv, load, training=False):
    """Parse a command line whose defaults are those of the checkpoint ``load``; a mistake ends the program in one line.

    Args:
        parser: with the flags of ``main.add_architecture_flags`` and ``--moving-average-decay``. argv (list of str).
        load (str): what ``--load`` means, or None. training (bool): take the flags that say what the network is, and not
        those of judging it.
    Returns:
        argparse.Namespace, not resolved.
    """
    if load is None:
        return parser.parse_args(argv)
    try:
        words, card, stored = _defaults(load, training)
    except (ValueError, OSError) as error:
        parser.error(error)
    args = parser.parse_args(words + argv)
    if card and not args.ignore_checkpoint_flags:
        _refuse_contradictions(parser, args, parser.parse_args(argv + words), cards.binding(card, training), stored.path)
    return args


def _refuse_contradictions(parser, typed, told, names, path):
    """``typed`` and ``told``: flags of which the typed ones and the card's ones win."""
    for name in names:
        wanted, value = getattr(typed, name), getattr(told, name)
        if wanted != value:
            parser.error("--{0} {1}: '{2}' is a network of --{0} {3}; leave the flag out, or add "
                         "--ignore-checkpoint-flags".format(name.replace('_', '-'), wanted, path, value))


def _defaults(load, training):
    """(flags as words, card or None, Stored or None) of a checkpoint.

    Raises:
        ValueError: the checkpoint cannot be read; its card is damaged, or of another checkpoint; no such published model.
    """
    if published.is_named(load):
        return published.flags_of(load, training), None, None
    try:
        path = checkpoints.find(load)
    except ValueError:  # to be said by who opens it, behind what else is wrong with the flags
        return [], None, None
    stored = checkpoints.Stored(path)
    card = cards.read(stored)
    if card:
        _check_own(card, stored)
        return cards.words(card, training), card, stored
    model = published_as(stored)
    if not model:
        return [], None, stored
    words = published.flags_of(model.name, training)
    if not launched_rank():
        print("'{}' is the published {}; its flags, where no others are typed: {}".format(
            load, model.name, ' '.join(words)), file=sys.stderr)
    return words, None, stored


def _check_own(card, stored):
    found, said = describe(stored.shapes), network_of_flags(card['flags'])
    if found and not found.is_same(said):
        raise ValueError("'{}' is {}, but what is written with it says {}: is that of another checkpoint?".format(
            stored.path, found, said))


def published_as(stored):
    """The published model that a checkpoint is by its file's name, if its variables fit; else None.

    Args:
        stored (Stored).
    """
    model = published.of_file(os.path.basename(stored.path))
    found = model and describe(stored.shapes)
    if not found or not found.is_same(network_of_words(model.flags)):
        return None
    averages = float(dict(zip(model.judged_flags[::2], model.judged_flags[1::2])).get('--moving-average-decay', 0)) > 0
    wanted = [name + AVERAGE * averages for name in network_part(stored.shapes)]
    return model if all(name in stored.shapes for name in wanted) else None


def refuse_another_network(args):
    """Refuse a checkpoint that is another network than that of resolved flags, before anything costly is done.

    Raises:
        ValueError: what it is, and the flags to type.
    """
    identity.refuse_another_network(network_of_flags(vars(args)), describe(checkpoints.stored(args.load).shapes),
                                    args.load)
