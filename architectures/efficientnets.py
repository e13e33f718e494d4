"""EfficientNet: its model over ``efficientnet``, options and sizes, and what tells a network's size and factors."""
import dataclasses
import math
import re

from architectures.efficientnet_names import pytorch_names
from architectures.entry import BATCH_NORM, Architecture, Identity
from architectures.model import ConfiguredModel
from efficientnet import network, scaling


class EfficientNetModel(ConfiguredModel):
    """EfficientNet of any size; ``options`` also has ``model_name``, ``width_coefficient``, ``depth_coefficient``,
    ``dropout_rate`` and ``survival_prob``."""
    Style = network.Style
    channels = 'RGB'
    # EN release: all but batch norm, biases included. A learnt shape of an activation is no weight either.
    weight_decay_variables = r'^(?!.*(batch_normalization|smoothrelu_beta))'

    def __init__(self, options, **given):
        super().__init__(options, **given)
        self.model_name = options.model_name
        self.width, self.depth = options.width_coefficient, options.depth_coefficient
        self._style.update(dropout_rate=options.dropout_rate, survival_prob=options.survival_prob)

    @property
    def style(self):
        return dataclasses.replace(super().style, noise_seed=self.noise_seed)

    def graph(self, image):
        return network.efficientnet(image, self.model_name, self.width, self.depth, self.num_classes, self.style)


# What variables tell

_SIZE = re.compile(r'({}\w+)/stem/conv2d/kernel'.format(scaling.PREFIX))
# Steps in which factors that no size has are looked for, the roundest first, up to the largest.
_FACTOR_STEPS, _LARGEST_FACTOR = (0.5, 0.1, 0.05, 0.01), 8


def _tell(shapes):
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
    return factors and {'model_name': name, 'width_coefficient': factors[0], 'depth_coefficient': factors[1],
                        'num_classes': classes}


def _block_output(shapes, scope):
    """Channels behind a block: those of its last convolution, which is the second where the first one expands."""
    return shapes[scope + ('conv2d_1' if scope + 'conv2d_1/kernel' in shapes else 'conv2d') + '/kernel'][3]


def _factors(size, stem, outputs, head):
    """(width, depth) of a network with these channels: those of ``size`` if they fit, else the roundest; None."""
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


def _plan(options):
    """Other factors may give the same channels."""
    return (options['model_name'], options['num_classes'],
            scaling.plan(options['width_coefficient'], options['depth_coefficient']))


def _details(options):
    factors = options['width_coefficient'], options['depth_coefficient']
    if factors == scaling.SIZES[options['model_name']][:2]:
        return []
    return ['factors {:g} and {:g}'.format(*factors)]


# The table's entry

EFFICIENTNET = Architecture(
    EfficientNetModel, 'sat-efficientnet',
    {'num_classes': 1000, 'survival_prob': network.Style.survival_prob, 'input_scaling': 'sat', **BATCH_NORM},
    sizes={name: {'input_size': size.resolution, 'width_coefficient': size.width, 'depth_coefficient': size.depth,
                  'dropout_rate': size.dropout_rate} for name, size in scaling.SIZES.items()},
    augmentation='efficientnet',
    identity=Identity(('model_name', 'width_coefficient', 'depth_coefficient', 'num_classes'), _tell, _plan, _details),
    pytorch=pytorch_names(_tell), classifier='[^/]+/head/dense/(kernel|bias)')
