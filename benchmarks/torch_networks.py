"""PyTorch's networks, of which torch_loop.py and torch_step.py time an attack and a step of training.

He et al.'s (2015) ResNet-50 with SiLU, or timm's EfficientNet-B0, ConvNeXts and vision transformers by their names
there. Needs PyTorch, timm for its networks, and nothing of this project but measure.py.
"""
import argparse
import copy

import torch
from torch import nn
from torch.nn import functional as F

import measure

# Of a training: Tan and Le's (2019) dropout and drop connect.
DROPPED = {'efficientnet_b0': {'drop_rate': 0.2, 'drop_path_rate': 0.2}}


class Normed(nn.Sequential):
    """Convolution and batch norm."""

    def __init__(self, channels_in, channels, kernel, stride=1):
        super().__init__(nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False),
                         nn.BatchNorm2d(channels))


class Bottleneck(nn.Module):
    def __init__(self, channels_in, width, stride):
        super().__init__()
        self.first, self.second = Normed(channels_in, width, 1), Normed(width, width, 3, stride)
        self.third = Normed(width, 4 * width, 1)
        self.shortcut = Normed(channels_in, 4 * width, 1, stride) if channels_in != 4 * width else nn.Identity()

    def forward(self, x):
        return F.silu(self.third(F.silu(self.second(F.silu(self.first(x))))) + self.shortcut(x))


class ResNet50(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.classifier, blocks, channels = Normed(3, 64, 7, 2), nn.Linear(2048, 1000), [], 64
        for count, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
            for number in range(count):
                blocks.append(Bottleneck(channels, width, 1 if number else stride))
                channels = 4 * width
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        x = self.blocks(F.max_pool2d(F.silu(self.stem(x)), 3, 2, 1))
        return self.classifier(x.mean((2, 3)))


class ConvStem(nn.Sequential):
    """The stem of Singh et al. (2023); ``pointwise``: channels of a 1x1 convolution behind it, or None."""

    def __init__(self, widths, pointwise=None):
        from timm.layers import LayerNorm2d
        parts, channels = [], 3
        for width in widths:
            parts += [nn.Conv2d(channels, width, 3, 2, 1), LayerNorm2d(width), nn.GELU()]
            channels = width
        super().__init__(*parts, *([nn.Conv2d(channels, pointwise, 1)] if pointwise else []))


def make_network(name, conv_stem):
    """ResNet-50, or a network of timm's by its name there; channels last."""
    if name == 'resnet50':
        network = ResNet50()
    else:
        import timm
        network = timm.create_model(name, **DROPPED.get(name, {}))
    if conv_stem and name.startswith('convnext'):
        width = network.stem[0].out_channels
        network.stem = ConvStem((width // 2, width))
    elif conv_stem:
        network.patch_embed.proj = ConvStem((48, 96, 192, 384), network.embed_dim)
    return network.to(memory_format=torch.channels_last)


class Attacked:
    """A network's copy for attacks: in inference mode, batch norm folded into the convolutions before it, without
    gradients of weights, in a precision of its own.

    ``network`` is it; ``refresh()`` brings it up to the weights and statistics of now.
    """

    def __init__(self, network, dtype):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._folded, paired = [], set()
        for before, name in _normed(network):
            conv, norm = network.get_submodule(before), network.get_submodule(name)
            own = self.network.get_submodule(before)
            own.bias = nn.Parameter(torch.zeros(own.out_channels), requires_grad=False)
            # timm's have the activation in them.
            self.network.set_submodule(name, getattr(norm, 'act', nn.Identity()))
            self._folded.append((conv.weight, norm, own))
            paired.add(before + '.weight')
        self.network.to(dtype)
        rest = [name for name, _ in network.named_parameters()
                if name in dict(self.network.named_parameters()) and name not in paired]
        self._rest = [[of.get_parameter(name) for name in rest] for of in (self.network, network)]
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        for weight, norm, own in self._folded:
            factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            torch.mul(weight, factor[:, None, None, None], out=own.weight)
            own.bias.copy_(norm.bias - norm.running_mean * factor)
        torch._foreach_copy_(*self._rest)


def _normed(network):
    """(name of a convolution, name of the batch norm behind it), in the order in which both were made."""
    convolution = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            convolution = name
        elif isinstance(module, nn.BatchNorm2d):
            yield convolution, name


def parser(description):
    """A parser with the flags that both programs have."""
    found = argparse.ArgumentParser(description=description.split('\n')[0], allow_abbrev=False)
    found.add_argument('--network', default='resnet50', metavar='NAME',
                       help="one of timm's, or the default: %(default)s with SiLU")
    found.add_argument('--conv-stem', action='store_true', help="in place of timm's first convolution")
    found.add_argument('--batch', type=measure.positive, required=True)
    found.add_argument('--attack-iter', type=measure.positive, required=True)
    found.add_argument('--threads', type=measure.positive, required=True)
    found.add_argument('--precision', choices=('float32', 'bfloat16'), default='float32', help='of autocast')
    found.add_argument('--compile', action='store_true', help='torch.compile')
    return found


def start(args):
    """(images [N,3,S,S] in [-1, 1], channels last, labels), after the threads and the random numbers are set."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    image = torch.rand(args.batch, 3, 224, 224) * 2 - 1
    return image.contiguous(memory_format=torch.channels_last), torch.randint(0, 1000, [args.batch])


def dtype_of(args):
    return getattr(torch, args.precision)


def autocast(args, enabled=True):
    """The context of a pass through the network."""
    return torch.autocast('cpu', dtype_of(args), enabled=enabled and args.precision != 'float32')


def compiled(args, network):
    return torch.compile(network) if args.compile else network
