"""Which network a set of variables is of, told by names and shapes alone, and the flags that ask for it.

Neither graphs nor files: shapes are tuples by name. What names cannot tell is in ``weights.card``.
"""
import math
import re
from typing import NamedTuple, Optional

from efficientnet import scaling
from nets import architecture_defaults
from resnet_model import CIFAR_BLOCKS, CIFAR_WIDE_DEPTH, IMAGENET_BLOCKS
from training.optimizers import is_of_optimizer

# Moving average of a variable in the released EfficientNet checkpoints.
AVERAGE = '/ExponentialMovingAverage'
# What a training checkpoint holds beside the network and the optimizer's own variables; without them it is still a
# network.
_TRAINING_ONLY = re.compile(r'(^global_step|^learning_rate|{})$'.format(AVERAGE))
_SHOWN = 3  # names in an error message

# Blocks in each group, and whether they have three convolutions, to the depth.
_DEPTHS = {**{(counts, True): depth for depth, counts in IMAGENET_BLOCKS.items()},
           **{((count,) * 3, False): depth for depth, count in CIFAR_BLOCKS.items()},
           ((2,) * 4, False): CIFAR_WIDE_DEPTH}
_BLOCK = re.compile(r'group(\d+)/block(\d+)/conv1/W')
_SIZE = re.compile(r'({}\w+)/stem/conv2d/kernel'.format(scaling.PREFIX))
# Steps in which factors of EfficientNet that no size has are looked for, the roundest first, up to the largest.
_FACTOR_STEPS, _LARGEST_FACTOR = (0.5, 0.1, 0.05, 0.01), 8


def is_of_training(name):
    """bool: whether the variable ``name`` is the optimizer's and such, or a moving average: not of the network."""
    return _TRAINING_ONLY.search(name) is not None or is_of_optimizer(name)


def some(items):
    """The first of ``items``, and how many more there are, for a message."""
    return ', '.join(items[:_SHOWN]) + (' and {} more'.format(len(items) - _SHOWN) if len(items) > _SHOWN else '')


# Fields of ``Network``, and their flags; those that are named whatever their value.
_FLAGS = {'model_name': '--model-name', 'depth': '-d', 'group': '--group', 'res2_bottleneck': '--res2-bottleneck',
          'width_coefficient': '--width-coefficient', 'depth_coefficient': '--depth-coefficient',
          'num_classes': '--num-classes'}
_ALWAYS = ('--model-name', '-d')


class Network(NamedTuple):
    """As much of a network as names and shapes of variables tell; fields as the flags, None where it has no such flag.

    smooth_relu (bool): its activation is SmoothReLU, which has variables; of others nothing can be told.
    """
    arch: str
    num_classes: int
    smooth_relu: bool
    depth: Optional[int] = None
    res2_bottleneck: Optional[int] = None
    group: Optional[int] = None
    model_name: Optional[str] = None
    width_coefficient: Optional[float] = None
    depth_coefficient: Optional[float] = None

    def is_same(self, other):
        """bool: whether both have the same variables; other factors of EfficientNet may give the same channels."""
        factors = dict(width_coefficient=None, depth_coefficient=None)
        return self._replace(**factors) == other._replace(**factors) and self._plan() == other._plan()

    def _plan(self):
        return self.model_name and scaling.plan(self.width_coefficient, self.depth_coefficient)

    def __str__(self):
        parts = [self.model_name or '{} of {} layers'.format(self.arch, self.depth)]
        factors = self.width_coefficient, self.depth_coefficient
        if self.model_name and factors != scaling.SIZES[self.model_name][:2]:
            parts.append('factors {:g} and {:g}'.format(*factors))
        if self.group not in (None, 1) or self.res2_bottleneck not in (None, 64):
            parts.append('{} groups of {} channels'.format(self.group, self.res2_bottleneck))
        return ', '.join(parts + ['SmoothReLU'] * self.smooth_relu + ['{} classes'.format(self.num_classes)])

    def _default(self, name):
        return architecture_defaults(self.arch, self.model_name).get(name)

    def flags(self, instead_of=None):
        """The flags to type for this network, without those that are its defaults; but with those in place of which
        ``instead_of`` (Network), that of the flags that were typed, has other values than its defaults.

        Returns:
            list of str.
        """
        words = ['--arch', self.arch]
        for name, flag in _FLAGS.items():
            value = getattr(self, name)
            if value is not None and (flag in _ALWAYS or value != self._default(name) or
                                      instead_of and getattr(instead_of, name) != instead_of._default(name)):
                words += [flag, '{:g}'.format(value) if isinstance(value, float) else str(value)]
        if self.smooth_relu:
            words += ['--activation-name', 'smoothrelu']
        elif instead_of and instead_of.smooth_relu:
            words += ['--activation-name', '(another than smoothrelu)']
        return words


def network_of_words(words):
    """The ``Network`` of flags and their values in turn, as ``zoo.published`` has them."""
    given = dict(zip(words[::2], words[1::2]))
    defaults = architecture_defaults(given['--arch'], given.get('--model-name'))
    fields = {name: type(defaults[name])(given.get(flag, defaults[name]))
              for name, flag in _FLAGS.items() if name in defaults}
    return Network(given['--arch'], smooth_relu=given.get('--activation-name') == 'smoothrelu', **fields)


def network_of_flags(flags):
    """The ``Network`` of resolved flags (dict), with None or nothing for those that its architecture has not."""
    return Network(flags['arch'], smooth_relu=flags['activation_name'] == 'smoothrelu',
                   **{name: flags.get(name) for name in _FLAGS})


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
    try:
        return _residual(shapes) if 'conv0/W' in shapes else _efficientnet(shapes)
    except (KeyError, ValueError):  # a variable that every such network has is absent, or not of its rank
        return None


def _residual(shapes):
    blocks = {tuple(map(int, found.groups())) for found in map(_BLOCK.fullmatch, shapes) if found}
    groups = max((group for group, _ in blocks), default=-1) + 1
    counts = tuple(sum(group == each for group, _ in blocks) for each in range(groups))
    if blocks != {(group, block) for group, count in enumerate(counts) for block in range(count)}:
        return None
    bottleneck = 'group0/block0/conv3/W' in shapes
    depth = _DEPTHS.get((counts, bottleneck))
    _, classes = shapes['linear/W']
    if depth is None:
        return None
    network = Network('CifarResNet', classes, 'conv0/smoothrelu_beta' in shapes, depth)
    if not bottleneck:
        return network
    _, _, channels, inner = shapes['group0/block0/conv2/W']
    kind = ('ResNetDenoise' if 'group0_denoise/conv/W' in shapes else
            'ResNeXtDenoiseAll' if 'group0/block0/non_local/conv/W' in shapes else 'ResNet')
    return network._replace(arch=kind, res2_bottleneck=channels, group=inner // channels)


def _efficientnet(shapes):
    names = [found.group(1) for found in map(_SIZE.fullmatch, shapes) if found]
    if len(names) != 1 or names[0] not in scaling.SIZES:
        return None
    name, = names
    outputs = []
    while '{}/blocks_{}/depthwise_conv2d/depthwise_kernel'.format(name, len(outputs)) in shapes:
        outputs.append(_block_output(shapes, '{}/blocks_{}/'.format(name, len(outputs))))
    stem, head = shapes[name + '/stem/conv2d/kernel'][3], shapes[name + '/head/conv2d/kernel'][3]
    factors = _factors(scaling.SIZES[name], stem, outputs, head)
    _, classes = shapes[name + '/head/dense/kernel']
    smooth = name + '/stem/smoothrelu_beta' in shapes
    return factors and Network('EfficientNet', classes, smooth, model_name=name,
                               width_coefficient=factors[0], depth_coefficient=factors[1])


def _block_output(shapes, scope):
    """Channels behind a block: those of its last convolution, which is the second where the first one expands."""
    return shapes[scope + ('conv2d_1' if scope + 'conv2d_1/kernel' in shapes else 'conv2d') + '/kernel'][3]


def _factors(size, stem, outputs, head):
    """(width, depth) of an EfficientNet with these channels: those of ``size`` if they fit, else the roundest; None."""
    wanted = stem, outputs, head

    def fits(width, depth):
        plan = scaling.plan(width, depth)
        return (plan.stem_channels, [block.channels for block in plan.blocks], plan.head_channels) == wanted
    if fits(*size[:2]):
        return tuple(size[:2])
    steps = [round(step * k, 2) for step in _FACTOR_STEPS for k in range(1, round(_LARGEST_FACTOR / step) + 1)]
    widths = [w for w in dict.fromkeys(steps) if (scaling.scaled_channels(scaling.STEM_CHANNELS, w),
                                                  scaling.scaled_channels(scaling.HEAD_CHANNELS, w)) == (stem, head)]
    depths = [d for d in dict.fromkeys(steps)
              if sum(math.ceil(d * stage.repeats) for stage in scaling.STAGES) == len(outputs)]
    return next(((w, d) for w in widths for d in depths if fits(w, d)), None)


def refuse_another_network(network, found, path):
    """Refuse a checkpoint that is another network of this project's.

    Args:
        network (Network): what was asked for, or None. found (Network): what the checkpoint is, or None. path (str): of
        the checkpoint.
    Raises:
        ValueError: what it is, and the flags to type.
    """
    if network and found and not network.is_same(found):
        raise ValueError("checkpoint '{}' is {}; the flags ask for {}; give {}".format(
            path, found, network, ' '.join(found.flags(network))))
