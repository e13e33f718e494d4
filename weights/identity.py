"""Which network a set of variables is of, told by names and shapes alone, and the flags that ask for it.

Neither graphs nor files: shapes are tuples by name. How variables tell a network is in its entry in ``nets``; what they
cannot tell is in ``weights.card``.
"""
import re
from typing import Any, Mapping, NamedTuple

from architectures.entry import Identity
from nets import ARCHITECTURES, architecture_defaults
from settings import sections
from training.optimizers import is_of_optimizer
from training.step.loss_scale import SCOPE as LOSS_SCALE

# Moving average of a variable in the released EfficientNet checkpoints.
AVERAGE = '/ExponentialMovingAverage'
# What a training checkpoint holds beside the network and the optimizer's own variables; without them it is still a
# network.
_TRAINING_ONLY = re.compile(r'(^global_step|^learning_rate|^{}/\w+|{})$'.format(LOSS_SCALE, AVERAGE))
# Advice where the classes alone are others.
OR_TRAIN_ANOTHER = '; or train it on other classes with --new-classifier'
_SHOWN = 3  # names in an error message

_SMOOTH_RELU = '/smoothrelu_beta'  # end of the name of its variables


def is_of_training(name):
    """bool: whether the variable ``name`` is the optimizer's and such, or a moving average: not of the network."""
    return _TRAINING_ONLY.search(name) is not None or is_of_optimizer(name)


def some(items):
    """The first of ``items``, and how many more there are, for a message."""
    return ', '.join(items[:_SHOWN]) + (' and {} more'.format(len(items) - _SHOWN) if len(items) > _SHOWN else '')


class Network(NamedTuple):
    """As much of a network as names and shapes of variables tell.

    arch (str): of ``nets.ARCHITECTURES``. smooth_relu (bool): its activation is SmoothReLU, which has variables; of
    others nothing can be told. options (dict): by destination, those that its kind's variables tell.
    """
    arch: str
    smooth_relu: bool
    options: Mapping[str, Any]

    @property
    def _kind(self):
        return _identity_of(self.arch)

    def is_same(self, other):
        """bool: whether both have the same variables."""
        return (self.arch, self.smooth_relu) == (other.arch, other.smooth_relu) and \
            self._kind.same(self.options) == other._kind.same(other.options)

    def with_classes(self, number):
        """This network with another number of classes, where its variables tell of classes."""
        return self._replace(options={**self.options, 'num_classes': number}) if 'num_classes' in self.options else self

    def __str__(self):
        size = self.options.get('model_name') or self.arch + (
            ' of {} layers'.format(self.options['depth']) if 'depth' in self.options else '')
        classes = ['{} classes'.format(self.options['num_classes'])] if 'num_classes' in self.options else []
        return ', '.join([size, *self._kind.details(self.options), *['SmoothReLU'] * self.smooth_relu, *classes])

    def _changed(self, name):
        """bool: whether an option is another than where it is not given."""
        return self.options.get(name) != architecture_defaults(self.arch, self.options.get('model_name')).get(name)

    def flags(self, instead_of=None):
        """The flags to type for this network, without those that are its defaults; but with those in place of which
        ``instead_of`` (Network), that of the flags that were typed, has other values than its defaults.

        Returns:
            list of str.
        """
        words = ['--arch', self.arch]
        for number, name in enumerate(self._kind.told):
            value = self.options[name]
            if number == 0 or self._changed(name) or (instead_of and name in instead_of.options
                                                      and instead_of._changed(name)):
                words += [_flag_of(name), '{:g}'.format(value) if isinstance(value, float) else str(value)]
        if self.smooth_relu:
            words += ['--activation-name', 'smoothrelu']
        elif instead_of and instead_of.smooth_relu:
            words += ['--activation-name', '(another than smoothrelu)']
        return words


_UNTOLD = Identity((), lambda shapes: None)


def _identity_of(arch):
    return ARCHITECTURES[arch].identity or _UNTOLD


def _options():
    """The options that say what a network is, by destination."""
    return {option.dest: option for option in sections.written()}


def _flag_of(name):
    """The flag of an option as messages have it, the short one if there is one."""
    return _options()[name].flag.names[0]


def network_of_words(words):
    """The ``Network`` of flags and their values in turn, as ``zoo.published`` has them."""
    given = dict(zip(words[::2], words[1::2]))
    defaults, options = architecture_defaults(given['--arch'], given.get('--model-name')), _options()
    return Network(given['--arch'], given.get('--activation-name') == 'smoothrelu', {
        name: options[name].kind(given.get(_flag_of(name), defaults[name]))
        for name in _identity_of(given['--arch']).told})


def network_of_flags(flags):
    """The ``Network`` of resolved flags (dict)."""
    return Network(flags['arch'], flags['activation_name'] == 'smoothrelu',
                   {name: flags[name] for name in _identity_of(flags['arch']).told})


def network_part(shapes):
    """A checkpoint's shapes without what training alone needs, as a graph has them; averages stand for the weights."""
    names = {re.sub(AVERAGE + '$', '', name): shape for name, shape in shapes.items()}
    # The SAT release's evaluation graphs store batch norm's vectors as [1, 1, 1, 1, C].
    return {name: tuple(shape[4:] if len(shape) == 5 and tuple(shape[:4]) == (1,) * 4 else shape)
            for name, shape in names.items() if not is_of_training(name)}


def describe(shapes):
    """What network variables are of.

    Args:
        shapes (dict): name to shape, of a network's or a checkpoint's variables.
    Returns:
        Network, or None for none of this project's.
    """
    shapes = network_part(shapes)
    for arch in ARCHITECTURES:
        try:
            options = _identity_of(arch).tell(shapes)
        except (KeyError, ValueError):  # a variable that every such network has is absent, or not of its rank
            continue
        if options:
            return Network(arch, any(name.endswith(_SMOOTH_RELU) for name in shapes), options)
    return None


def refuse_another_network(network, found, path):
    """Refuse a checkpoint that is another network of this project's.

    Args:
        network (Network): what was asked for, or None. found (Network): what the checkpoint is, or None. path (str): of
        the checkpoint.
    Raises:
        ValueError: what it is, and the flags to type.
    """
    if network and found and not network.is_same(found):
        others = network.is_same(found.with_classes(network.options.get('num_classes')))
        raise ValueError("checkpoint '{}' is {}; the flags ask for {}; give {}{}".format(
            path, found, network, ' '.join(found.flags(network)), OR_TRAIN_ANOTHER if others else ''))
