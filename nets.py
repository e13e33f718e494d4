"""The networks that ``--arch NAME`` names: ``NAMEModel(args)``, each a small ModelDesc over a graph room."""
from typing import NamedTuple, Tuple

import tensorflow.compat.v1 as tf

import resnet_model
from adv_model import AdvImageNetModel


def resolve_data_format(data_format):
    """'NHWC' or 'NCHW' as given; for None the device's own: NCHW on a GPU, NHWC on a CPU."""
    if data_format:
        return data_format
    return 'NCHW' if tf.config.list_physical_devices('GPU') else 'NHWC'


class _ResidualModel(AdvImageNetModel):
    """What the residual networks take from the resolved flags.

    Args:
        args: ``depth``, ``num_classes``, ``input_size``, ``activation_name``, ``padding``, ``data_format``, and for
            the ImageNet networks ``res2_bottleneck`` and ``group``.
    """

    def __init__(self, args):
        self.depth = args.depth
        self.num_classes = args.num_classes
        self.image_shape = args.input_size
        self.activation_name = args.activation_name
        self.padding = args.padding
        self.data_format = resolve_data_format(args.data_format)

    @property
    def style(self):
        return resnet_model.Style(self.data_format, self.trains_now, self.activation_name, self.padding)


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


class Architecture(NamedTuple):
    """What the command line must know of a network before it is built: the choices, and what holds unless given."""
    depths: Tuple[int, ...]
    default_depth: int
    input_size: int
    num_classes: int
    recipe: str  # of the release that published it
    res2_bottleneck: int = 64
    group: int = 1


_IMAGENET = Architecture(tuple(resnet_model.IMAGENET_BLOCKS), 50, 224, 1000, 'sat')
ARCHITECTURES = {
    'ResNet': _IMAGENET,
    'ResNetDenoise': _IMAGENET._replace(recipe='feature-denoising'),
    'ResNeXtDenoiseAll': _IMAGENET._replace(recipe='feature-denoising', res2_bottleneck=8, group=32),
    'CifarResNet': Architecture(tuple(resnet_model.CIFAR_BLOCKS) + (resnet_model.CIFAR_WIDE_DEPTH,), 20, 32, 10, 'sat'),
}
