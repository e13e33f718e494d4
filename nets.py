"""The networks that ``--arch NAME`` names: a table, and models made from its entries.

A new network is an entry: see ``architecture``. ``NAMEModel(args)`` of each, for the resolved flags ``args``, is what
the released programs have.
"""
import layers.scaling
from architectures.convnexts import CONVNEXT
from architectures.efficientnets import EFFICIENTNET
from architectures.resnets import CIFAR_RESNET, RESNET, RESNET_DENOISE, RESNEXT_DENOISE_ALL
from architectures.vits import VIT
from settings.resolve import flat

ARCHITECTURES = {'ResNet': RESNET, 'ResNetDenoise': RESNET_DENOISE, 'ResNeXtDenoiseAll': RESNEXT_DENOISE_ALL,
                 'CifarResNet': CIFAR_RESNET, 'EfficientNet': EFFICIENTNET, 'ConvNeXt': CONVNEXT, 'ViT': VIT}


def __getattr__(name):
    arch = name[:-len('Model')]
    if arch + 'Model' != name or arch not in ARCHITECTURES:
        raise AttributeError('nets has no {}'.format(name))
    return ARCHITECTURES[arch].model


class _SizeNames:
    """What --model-name may be for the networks that there are now."""

    def __iter__(self):
        return iter(dict.fromkeys(name for entry in ARCHITECTURES.values() for name in entry.sizes))


SIZE_NAMES = _SizeNames()


def build(settings, **training):
    """The network of a command's settings.

    Args:
        settings (Settings). training: attributes of ``AdvImageNetModel``, of a network that is trained.
    """
    return ARCHITECTURES[settings.network.arch].model(flat(settings.network, settings.view), seed=settings.run.seed,
                                                      **training)


def architecture_defaults(arch, model_name=None):
    """Options of architecture ``arch`` and their values where not given; see ``Architecture.defaults``."""
    return ARCHITECTURES[arch].defaults(model_name)


def usual(name):
    """What an option is where it is not given, in words: of the first kind of network that has it, and of those that
    have another value."""
    values = {}
    for arch, entry in ARCHITECTURES.items():
        if name in entry.defaults():
            of_sizes = {entry.defaults(size)[name] for size in entry.sizes}
            values[arch] = "the size's" if len(of_sizes) > 1 and name != 'model_name' else entry.defaults()[name]
    first = next(iter(values.values()))
    return '; '.join([str(first), *('{} {}'.format(*each) for each in values.items() if each[1] != first)])


def channel_order(arch, input_scaling=None):
    """'BGR' or 'RGB': what networks of an architecture take in an input scaling; None: in that of networks without a
    choice."""
    return layers.scaling.channel_order(ARCHITECTURES[arch].model.channels, input_scaling)


def network_name(args):
    """What the network of resolved flags is called in names of directories: 'ResNet50', 'efficientnet-b0'."""
    return args.model_name or '{}{}'.format(args.arch, '' if args.depth is None else args.depth)
