"""The networks that ``--arch NAME`` names: a table, and models made from its entries.

A new network is an entry: see ``architecture``. ``NAMEModel(args)`` of each, for the resolved flags ``args``, is what
the released programs have.
"""
from architectures.efficientnets import EFFICIENTNET
from architectures.resnets import CIFAR_RESNET, RESNET, RESNET_DENOISE, RESNEXT_DENOISE_ALL
from settings.resolve import flat

ARCHITECTURES = {'ResNet': RESNET, 'ResNetDenoise': RESNET_DENOISE, 'ResNeXtDenoiseAll': RESNEXT_DENOISE_ALL,
                 'CifarResNet': CIFAR_RESNET, 'EfficientNet': EFFICIENTNET}


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


def channel_order(arch):
    """'BGR' or 'RGB': what networks of an architecture take."""
    return ARCHITECTURES[arch].model.channels


def network_name(args):
    """What the network of resolved flags is called in names of directories: 'ResNet50', 'efficientnet-b0'."""
    return args.model_name or '{}{}'.format(args.arch, '' if args.depth is None else args.depth)
