"""The residual networks: their models over ``resnet_model``, options, and what tells them apart."""
import functools
import re

import resnet_model
from architectures.entry import BATCH_NORM, Architecture, Identity
from architectures.model import ConfiguredModel
from architectures.resnet_names import pytorch_names
from resnet_model import CIFAR_BLOCKS, CIFAR_WIDE_DEPTH, IMAGENET_BLOCKS


class ResidualModel(ConfiguredModel):
    """``options`` also has ``depth``, ``padding``, and for the ImageNet networks ``res2_bottleneck`` and ``group``."""
    Style = resnet_model.Style

    def __init__(self, options, **given):
        super().__init__(options, **given)
        self.depth = options.depth
        self._style['padding'] = options.padding


class ResNetModel(ResidualModel):
    """ResNet, or ResNeXt by ``--res2-bottleneck`` and ``--group`` (He et al. 2015; Xie et al. 2017)."""
    denoise = None

    def __init__(self, options, **given):
        super().__init__(options, **given)
        self.res2_bottleneck = options.res2_bottleneck
        self.group = options.group

    def graph(self, image):
        return resnet_model.imagenet_resnet(image, self.depth, self.num_classes, self.style, self.res2_bottleneck,
                                            self.group, self.denoise)


class ResNetDenoiseModel(ResNetModel):
    """ResNet with a denoising block after each of the four groups (FD Sec 4)."""
    denoise = 'groups'


class ResNeXtDenoiseAllModel(ResNetModel):
    """ResNeXt 32x8d with a denoising block after every residual block (FD's competition entry)."""
    denoise = 'blocks'


class CifarResNetModel(ResidualModel):
    """ResNet for 32x32 images (He et al. 2015, Sec 4.2), or the wide ResNet-18 of robustness papers."""

    def graph(self, image):
        return resnet_model.cifar_resnet(image, self.depth, self.num_classes, self.style)


# What variables tell

# Blocks in each group, and whether they have three convolutions, to the depth.
_DEPTHS = {**{(counts, True): depth for depth, counts in IMAGENET_BLOCKS.items()},
           **{((count,) * 3, False): depth for depth, count in CIFAR_BLOCKS.items()},
           ((2,) * 4, False): CIFAR_WIDE_DEPTH}
_BLOCK = re.compile(r'group(\d+)/block(\d+)/conv1/W')


def _depth_and_classes(shapes, bottleneck):
    """The options that all residual networks have; None for other blocks than those with or without a bottleneck."""
    blocks = {tuple(map(int, found.groups())) for found in map(_BLOCK.fullmatch, shapes) if found}
    groups = max((group for group, _ in blocks), default=-1) + 1
    counts = tuple(sum(group == each for group, _ in blocks) for each in range(groups))
    depth = _DEPTHS.get((counts, bottleneck))
    if depth is None or 'conv0/W' not in shapes or ('group0/block0/conv3/W' in shapes) != bottleneck or \
            blocks != {(group, block) for group, count in enumerate(counts) for block in range(count)}:
        return None
    _, classes = shapes['linear/W']
    return {'depth': depth, 'num_classes': classes}


def _tell_cifar(shapes):
    kernel, _, _, _ = shapes['conv0/W']
    # The ResNet-18 for ImageNet has the same blocks, behind a kernel of 7.
    return _depth_and_classes(shapes, bottleneck=False) if kernel == 3 else None


def _tell_imagenet(shapes, denoise):
    found = _depth_and_classes(shapes, bottleneck=True)
    held = ('groups' if 'group0_denoise/conv/W' in shapes else
            'blocks' if 'group0/block0/non_local/conv/W' in shapes else None)
    if found is None or held != denoise:
        return None
    _, _, channels, inner = shapes['group0/block0/conv2/W']
    return dict(found, res2_bottleneck=channels, group=inner // channels)


def _groups(options):
    if (options['group'], options['res2_bottleneck']) == (1, 64):
        return []
    return ['{} groups of {} channels'.format(options['group'], options['res2_bottleneck'])]


# The table's entries

_CLASSIFIER = 'linear/(W|b)'
# A scaling of None is 'sat', as that of all networks was that have been saved without a word of it.
_STYLE = {'padding': None, 'input_scaling': None, **BATCH_NORM}


def _check_groups(options):
    if options.res2_bottleneck * options.group % 64:
        raise ValueError('--res2-bottleneck {} --group {}: their product must be a multiple of 64'.format(
            options.res2_bottleneck, options.group))


def _imagenet(model, recipe, res2_bottleneck=64, group=1):
    return Architecture(
        model, recipe, {'depth': 50, 'input_size': 224, 'num_classes': 1000, 'res2_bottleneck': res2_bottleneck,
                        'group': group, **_STYLE},
        depths=tuple(IMAGENET_BLOCKS), check=_check_groups,
        identity=Identity(('depth', 'group', 'res2_bottleneck', 'num_classes'),
                          functools.partial(_tell_imagenet, denoise=model.denoise), details=_groups),
        pytorch=pytorch_names(3, pooled=True), classifier=_CLASSIFIER)


RESNET = _imagenet(ResNetModel, 'sat')
RESNET_DENOISE = _imagenet(ResNetDenoiseModel, 'feature-denoising')
RESNEXT_DENOISE_ALL = _imagenet(ResNeXtDenoiseAllModel, 'feature-denoising', res2_bottleneck=8, group=32)
CIFAR_RESNET = Architecture(
    CifarResNetModel, 'sat', {'depth': 20, 'input_size': 32, 'num_classes': 10, **_STYLE},
    depths=(*CIFAR_BLOCKS, CIFAR_WIDE_DEPTH), identity=Identity(('depth', 'num_classes'), _tell_cifar),
    pytorch=pytorch_names(2, pooled=False), classifier=_CLASSIFIER)
