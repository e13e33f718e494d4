"""The networks that ``--arch NAME`` names: ``NAMEModel(args)``, each a small ModelDesc over a graph room."""
from typing import NamedTuple, Tuple

import tensorflow.compat.v1 as tf

import resnet_model
from adv_model import AdvImageNetModel
from efficientnet import network as efficientnet
from efficientnet.scaling import PREFIX, SIZES
from ranks.gather import gather_texts, sum_over_ranks


def resolve_data_format(data_format):
    """'NHWC' or 'NCHW' as given; for None the device's own: NCHW on a GPU, NHWC on a CPU."""
    if data_format:
        return data_format
    return 'NCHW' if tf.config.list_physical_devices('GPU') else 'NHWC'


CPU_INFO = '/proc/cpuinfo'


def fast_precision():
    """What an attack is fastest in: 'bfloat16' on a CPU that multiplies matrices of it (Intel's AMX), else
    'float32'."""
    if tf.config.list_physical_devices('GPU'):
        return 'float32'
    try:
        with open(CPU_INFO) as f:
            has_units = any(line.startswith('flags') and 'amx_bf16' in line.split() for line in f)
    except OSError:  # another system than Linux
        has_units = False
    return 'bfloat16' if has_units else 'float32'


def agreed_precision(ranks):
    """``fast_precision`` of a job: 'float32' unless all of its ranks' machines have the same; all ranks must ask."""
    fast = set(gather_texts(ranks, fast_precision()))
    return fast.pop() if len(fast) == 1 else 'float32'


class _ConfiguredModel(AdvImageNetModel):
    """What all networks take from the resolved flags.

    Args:
        args: ``num_classes``, ``input_size``, ``activation_name``, ``batch_norm_momentum``, ``batch_norm_epsilon``,
            ``sync_batch_norm``, ``recompute`` and ``data_format``.
    """

    def __init__(self, args):
        self.num_classes = args.num_classes
        self.image_shape = args.input_size
        self.data_format = resolve_data_format(args.data_format)
        self._style = dict(data_format=self.data_format, activation=args.activation_name,
                           bn_momentum=args.batch_norm_momentum, bn_epsilon=args.batch_norm_epsilon,
                           recompute=args.recompute,
                           sum_over_ranks=sum_over_ranks if args.sync_batch_norm else None)


class _ResidualModel(_ConfiguredModel):
    """The residual networks; ``args`` also has ``depth``, ``padding``, and for the ImageNet networks
    ``res2_bottleneck`` and ``group``."""

    def __init__(self, args):
        super().__init__(args)
        self.depth = args.depth
        self._style['padding'] = args.padding

    @property
    def style(self):
        return resnet_model.Style(training=self.trains_now, frozen=self.frozen, **self._style)


class ResNetModel(_ResidualModel):
    """ResNet, or ResNeXt by ``--res2-bottleneck`` and ``--group`` (He et al. 2015; Xie et al. 2017)."""
    denoise = None

    def __init__(self, args):
        super().__init__(args)
        self.res2_bottleneck = args.res2_bottleneck
        self.group = args.group

    def network(self, image):
        return resnet_model.imagenet_resnet(image, self.depth, self.num_classes, self.style, self.res2_bottleneck,
                                            self.group, self.denoise)


class ResNetDenoiseModel(ResNetModel):
    """ResNet with a denoising block after each of the four groups (FD Sec 4)."""
    denoise = 'groups'


class ResNeXtDenoiseAllModel(ResNetModel):
    """ResNeXt 32x8d with a denoising block after every residual block (FD's competition entry)."""
    denoise = 'blocks'


class CifarResNetModel(_ResidualModel):
    """ResNet for 32x32 images (He et al. 2015, Sec 4.2), or the wide ResNet-18 of robustness papers."""

    def network(self, image):
        return resnet_model.cifar_resnet(image, self.depth, self.num_classes, self.style)


# EN release, for its checkpoints without adversarial training: RGB means and standard deviations, 0-255.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
INPUT_SCALINGS = ('sat', 'mean-std')


class EfficientNetModel(_ConfiguredModel):
    """EfficientNet of any size; ``args`` also has ``model_name``, ``width_coefficient``, ``depth_coefficient``,
    ``dropout_rate``, ``survival_prob`` and ``input_scaling``: 'sat' is [-1, 1], 'mean-std' the EN release's."""
    channels = 'RGB'
    # EN release: all but batch norm, biases included. A learnt shape of an activation is no weight either.
    weight_decay_variables = r'^(?!.*(batch_normalization|smoothrelu_beta))'

    def __init__(self, args):
        super().__init__(args)
        self.model_name = args.model_name
        self.width, self.depth = args.width_coefficient, args.depth_coefficient
        self.input_scaling = args.input_scaling
        self._style.update(dropout_rate=args.dropout_rate, survival_prob=args.survival_prob)

    @property
    def style(self):
        return efficientnet.Style(training=self.trains_now, frozen=self.frozen, noise_seed=self.noise_seed,
                                  **self._style)

    def network(self, image):
        style = self.style
        if self.input_scaling == 'mean-std':
            # From the [-1, 1] in which attackers work.
            mean, std = (tf.reshape(tf.constant(values), style.per_axis(1, 1, 3))
                         for values in (IMAGENET_MEAN, IMAGENET_STD))
            image = ((image + 1) * (255 / 2) - mean) / std
        return efficientnet.efficientnet(image, self.model_name, self.width, self.depth, self.num_classes, style)


class Architecture(NamedTuple):
    """What the command line must know of a network before it is built.

    recipe: of the release that published it. defaults: flags that say which network to build, and their values where
    not given, None for the recipe's; flags that are not here mean nothing to it. depths: choices of --depth.
    augmentation: of training on images of ImageNet's kind.
    """
    recipe: str
    defaults: dict
    depths: Tuple[int, ...] = ()
    augmentation: str = 'imagenet'


_RESNET = {'depth': 50, 'input_size': 224, 'num_classes': 1000, 'res2_bottleneck': 64, 'group': 1, 'padding': None}
_IMAGENET_DEPTHS = tuple(resnet_model.IMAGENET_BLOCKS)
ARCHITECTURES = {
    'ResNet': Architecture('sat', _RESNET, _IMAGENET_DEPTHS),
    'ResNetDenoise': Architecture('feature-denoising', _RESNET, _IMAGENET_DEPTHS),
    'ResNeXtDenoiseAll': Architecture('feature-denoising', dict(_RESNET, res2_bottleneck=8, group=32),
                                      _IMAGENET_DEPTHS),
    'CifarResNet': Architecture('sat', {'depth': 20, 'input_size': 32, 'num_classes': 10, 'padding': None},
                                tuple(resnet_model.CIFAR_BLOCKS) + (resnet_model.CIFAR_WIDE_DEPTH,)),
    'EfficientNet': Architecture('sat-efficientnet', {
        'num_classes': 1000, 'survival_prob': efficientnet.Style.survival_prob, 'input_scaling': 'sat'},
        augmentation='efficientnet'),
}
DEFAULT_MODEL_NAME = PREFIX + 'b0'


def architecture_defaults(arch, model_name=None):
    """Flags of architecture ``arch`` and their values where not given; ``model_name`` is EfficientNet's size."""
    defaults = ARCHITECTURES[arch].defaults
    if arch != 'EfficientNet':
        return defaults
    model_name = model_name or DEFAULT_MODEL_NAME
    size = SIZES[model_name]
    return dict(defaults, model_name=model_name, input_size=size.resolution, width_coefficient=size.width,
                depth_coefficient=size.depth, dropout_rate=size.dropout_rate)


def network_name(args):
    """What the network of resolved flags is called in names of directories: 'ResNet50', 'efficientnet-b0'."""
    return args.model_name or '{}{}'.format(args.arch, args.depth)
