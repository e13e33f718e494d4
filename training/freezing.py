"""Variables that a training leaves as they are: which ``--freeze`` and ``--freeze-until`` mean."""
import difflib
import re

import tensorflow.compat.v1 as tf

import nets
from weights.identity import some

_NEAR = 0.4  # how alike names are that are shown for one that is not there


def variables_to_freeze(settings):
    """Names of the variables of a training's network that are not trained (frozenset).

    Args:
        settings (Settings).
    Raises:
        ValueError: a flag means no variable, or all of them, or the last layer where that has a rate of its own or is
            new; says what is near.
    """
    update = settings.update
    if update.freeze is None and update.freeze_until is None:
        return frozenset()
    names = trained_names(settings)
    found = names_to_freeze(names, update.freeze, update.freeze_until)
    classifier = nets.ARCHITECTURES[settings.network.arch].classifier
    last = [name for name in names if classifier and re.fullmatch(classifier, name)]
    wanted = '--new-classifier' if settings.run.new_classifier else '--classifier-rate'
    if (settings.run.new_classifier or update.classifier_rate) and found.issuperset(last):
        raise ValueError('{} and {}: the last layer, {}, would not be trained'.format(
            ' and '.join(_flags(update.freeze, update.freeze_until)), wanted, some(last)))
    return found


def trained_names(settings):
    """Names of the variables that a training without these flags trains, from the network's first layer to its last."""
    side = settings.view.input_size
    with tf.Graph().as_default():
        nets.build(settings).classify(tf.placeholder(tf.uint8, [1, side, side, 3]))
        return [v.op.name for v in tf.trainable_variables()]


def names_to_freeze(names, freeze=None, until=None):
    """Those of ``names`` (list of str) that the flags mean.

    Args:
        names: in the network's order. freeze (str): regular expression that is searched for in them. until (str): the
            last frozen layer: the beginning of its variables' names, up to a slash, with or without a scope that all
            have in common.
    Returns:
        frozenset of str.
    Raises:
        ValueError: a flag means none of them, or both mean all.
    """
    found = set()
    if freeze is not None:
        found = {name for name in names if re.search(freeze, name)}
        if not found:
            raise ValueError("--freeze '{}': in the name of no variable that is trained; near: {}".format(
                freeze, _nearest(freeze, [*_layers(names), *names])))
    if until is not None:
        begin = _common_scope(names)
        of_layer = [number for number, name in enumerate(names)
                    if any((start + name[len(begin):]).startswith(until.rstrip('/') + '/') for start in ('', begin))]
        if not of_layer:
            raise ValueError("--freeze-until '{}': the network has no such layer; near: {}".format(
                until, _nearest(until, [layer[len(begin):] for layer in _layers(names) if len(layer) > len(begin)])))
        found.update(names[:of_layer[-1] + 1])
    if len(found) == len(names):
        raise ValueError('{}: all {} variables of the network, from {} to {}, and none would be trained'.format(
            ' and '.join(_flags(freeze, until)), len(names), names[0], names[-1]))
    return frozenset(found)


def _flags(freeze, until):
    return ["{} '{}'".format(flag, value) for flag, value in (('--freeze', freeze), ('--freeze-until', until))
            if value is not None]


def _common_scope(names):
    """What comes before the first slash, with it, where that is the same in all names; else ''."""
    scopes = {name.partition('/')[0] + '/' for name in names}
    return scopes.pop() if len(scopes) == 1 else ''


def _layers(names):
    """Every beginning of names that ends before a slash, once, in their order."""
    return list(dict.fromkeys(name[:slash.start()] for name in names for slash in re.finditer('/', name)))


def _nearest(word, names):
    near = difflib.get_close_matches(word, names, n=4, cutoff=_NEAR)
    return ', '.join(near or [name for name in names if '/' not in name][:8] or names[:4])
