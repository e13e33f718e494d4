"""The flags that a checkpoint brings, as defaults: those of its card, of the published model that it is, or what a file
of PyTorch's says."""
import os
import sys
from typing import List, NamedTuple, Optional

from layers.scaling import INPUT_SCALINGS
from nets import ARCHITECTURES, channel_order
from ranks.launched import launched_rank
from settings.fields import options_of
from settings.network import Network
from settings.recipes import RECIPES
from settings.resolve import options_of_some
from weights import card as cards, identity
from weights.find import find_checkpoint, open_checkpoint
from weights.identity import AVERAGE, describe, network_of_flags, network_of_words, network_part
from weights.pytorch import Told
from weights.stored import Stored
from zoo import published

# Of the averages in a file that does not say it; any number above 0 asks for them.
USUAL_DECAY = 0.9999


class _Defaults(NamedTuple):
    """What a checkpoint says of its network. words (list of str): flags. card (dict): which says them, or None.
    model (published.Model): which brings them, by its file's name, or None. told (Told): what a file of PyTorch's says,
    of a network that is here, or None. path (str): of the checkpoint."""
    words: List[str]
    card: Optional[dict] = None
    model: Optional[published.Model] = None
    told: Optional[Told] = None
    path: Optional[str] = None


def parse_with_checkpoint(parser, argv, load, training=False, new_classifier=False):
    """Parse a command line whose defaults are those of the checkpoint ``load``; a mistake ends the program in one line.

    Args:
        parser: with the flags of ``main.add_architecture_flags`` and ``--moving-average-decay``. argv (list of str).
        load (str): what ``--load`` means, or None. training (bool): take the flags that say what the network is, not
            those of judging it. new_classifier (bool): the number of classes is not the checkpoint's.
    Returns:
        argparse.Namespace, not resolved.
    """
    if load is None:
        return parser.parse_args(argv)
    try:
        found = _defaults(load, training)
    except (ValueError, OSError) as error:
        parser.error(error)
    if new_classifier:
        found = found._replace(words=_without(found.words, 'num_classes'))
    args = parser.parse_args(found.words + argv)
    if training:
        found = found._replace(words=found.words + _of_recipe(found.words, args))
        args = parser.parse_args(found.words + argv)
    if found.card and not args.ignore_checkpoint_flags:
        told = parser.parse_args(argv + found.words)
        for name in cards.binding(found.card, training):
            if getattr(args, name) != getattr(told, name) and not (new_classifier and name == 'num_classes'):
                parser.error("--{0} {1}: '{2}' is a network of --{0} {3}; leave the flag out, or add "
                             "{4}--ignore-checkpoint-flags".format(
                                 name.replace('_', '-'), getattr(args, name), found.path, getattr(told, name),
                                 '--new-classifier or ' if training and name == 'num_classes' else ''))
    if found.told and args.arch != found.told.network.arch:
        return parser.parse_args(argv)  # to be refused by who lays the networks beside each other
    if found.told and not args.ignore_checkpoint_flags:
        _check_scaling(parser, args, found)
    if (found.model or found.told) and not launched_rank():
        print("'{}' is {}; its flags, where no others are typed: {}{}".format(
            load, 'the published ' + found.model.name if found.model else "{} under PyTorch's names".format(
                found.told.network), ' '.join(found.words), _of_averages(found.told, training)), file=sys.stderr)
    return args


def _without(words, name):
    """Flags without one: '--name=value', or '--name' and its value."""
    flag = '--' + name.replace('_', '-')
    kept, values = [], iter(words)
    for word in values:
        if word == flag:
            next(values)
        elif not word.startswith(flag + '='):
            kept.append(word)
    return kept


def _of_recipe(words, args):
    """What the recipe among a checkpoint's flags says of its network, where another was typed that says nothing of
    networks; flags."""
    named, typed = dict(zip(words, words[1:])).get('--recipe'), RECIPES.get(args.recipe)
    if named is None or typed is None:
        return []
    own = ARCHITECTURES[args.arch].defaults(args.model_name)
    return ['--{}={}'.format(option.dest.replace('_', '-'), RECIPES[named][option.dest])
            for option in options_of(Network)
            if option.dest in RECIPES[named] and option.dest not in typed and option.dest in {'activation_name', *own}]


def _check_scaling(parser, args, found):
    """Refuse an input scaling that the weights of a file of PyTorch's cannot be for."""
    scaling = found.told.scaling
    if scaling and INPUT_SCALINGS[args.input_scaling or 'sat'] != INPUT_SCALINGS[scaling]:
        parser.error("--input-scaling {}: '{}' has a normalisation of its own, which is --input-scaling {}; leave the "
                     'flag out, or add --ignore-checkpoint-flags'.format(args.input_scaling, found.path, scaling))
    if channel_order(args.arch, args.input_scaling) != 'RGB':
        parser.error("--input-scaling {}: then the network takes BGR, and the weights in '{}' are for RGB; choose unit "
                     'or imagenet, or add --ignore-checkpoint-flags'.format(args.input_scaling, found.path))


def _of_averages(told, training):
    """What is to be said of the two sets of weights in one file of PyTorch's."""
    if told is None or told.averages == 'none':
        return ''
    if told.averages == 'alone':
        return '; it has averages alone, which are taken as weights'
    return '; it has weights and their averages' + (
        '' if training else ', of which these flags take the averages, and --moving-average-decay 0 the weights')


def checkpoint_words(load):
    """The flags that a checkpoint brings to its evaluation; [] for one that says nothing.

    Raises:
        ValueError: it cannot be read; its card is damaged, or of another checkpoint; no such published model.
    """
    return _defaults(load, training=False).words


def judged_by_averages(load):
    """bool: whether a checkpoint is judged by its moving averages; None where neither it nor its release says that.

    Raises:
        ValueError: as ``checkpoint_words``.
    """
    words = ' '.join(checkpoint_words(load)).replace('=', ' ').split()
    decay = dict(zip(words, words[1:])).get('--moving-average-decay')
    return None if decay is None else float(decay) > 0


def _defaults(load, training):
    if published.is_named(load):
        return _Defaults(published.flags_of(load, training))
    try:
        path = find_checkpoint(load)
    except ValueError:  # to be said by who opens it, behind what else is wrong with the flags
        return _Defaults([])
    stored = Stored(path)
    card, model = cards.read(stored), published_as(stored)
    if card:
        _check_own(card, stored)
        return _Defaults(cards.words(card, training), card, path=path)
    told = stored.told if stored.told and stored.told.network else None
    words = _told_words(stored.told, training) if stored.told else []
    if model:
        words += published.flags_of(model.name, training)
    return _Defaults(words, model=model, told=told, path=path)


def _told_words(told, training):
    """The flags of a file of PyTorch's: what its variables and its normalisation tell, then what is usual; of one that
    is no network of this project, or none in full, which of weights and averages it holds."""
    words, values = [], {}
    if told.network:
        network, entry = told.network, ARCHITECTURES[told.network.arch]
        words, values = network.flags(), dict(entry.pytorch.usual)
        if told.scaling:
            values['input_scaling'] = told.scaling
        if network.smooth_relu:
            values.pop('activation_name', None)
        for name in options_of_some(ARCHITECTURES).difference(entry.defaults(network.options.get('model_name'))):
            values.pop(name, None)
    if not training:
        values['moving_average_decay'] = USUAL_DECAY if told.averages == 'both' else 0
    return words + [word for name, value in values.items() for word in ('--' + name.replace('_', '-'), str(value))]


def _check_own(card, stored):
    found, said = describe(stored.shapes), network_of_flags(card['flags'])
    if found and not found.is_same(said):
        raise ValueError("'{}' is {}, but what is written with it says {}: is that of another checkpoint?".format(
            stored.path, found, said))


def published_model(load):
    """The published model that ``load`` means, by its name, or that a file is (``published_as``); else None.

    Raises:
        ValueError: no such model or checkpoint, or it cannot be read.
    """
    return published.find(load) if published.is_named(load) else published_as(Stored(find_checkpoint(load)))


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


def refuse_another_network(args, new_classifier=False):
    """Refuse a checkpoint that is another network than that of resolved flags, before anything costly is done.

    Args:
        new_classifier (bool): it may have another number of classes.

    Raises:
        ValueError: what it is, and the flags to type.
    """
    stored = open_checkpoint(args.load)
    found = describe(stored.shapes)
    if found and new_classifier:
        found = found.with_classes(args.num_classes)
    identity.refuse_another_network(network_of_flags(vars(args)), found, args.load)
    # Of a published file that was not here when the flags were parsed.
    scaling = stored.told and stored.told.scaling
    own = args.input_scaling or ARCHITECTURES[args.arch].model.input_scaling
    if scaling and not args.ignore_checkpoint_flags and INPUT_SCALINGS[own] != INPUT_SCALINGS[scaling]:
        raise ValueError("--load '{}': the file has a normalisation of its own; type --input-scaling {}".format(
            args.load, scaling))
