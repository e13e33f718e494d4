#!/usr/bin/env python
"""A network that `convert.py weights` has written for PyTorch, as a module of timm's: the metadata say what to change.

    python tools/in_pytorch.py silu.safetensors image.jpg

Needs PyTorch, timm, safetensors and Pillow, and nothing of this project: take from it what you need. ``load`` gives a
module for images RGB in [0, 1], [N,3,S,S].
"""
import json
import math
import sys

import timm.layers
import torch
from safetensors import safe_open
from timm.models import convnext, efficientnet, resnet, vision_transformer
from torch import nn


class SmoothReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.b = nn.Parameter(torch.ones(1))

    def forward(self, x):
        beta = self.b ** 2
        return torch.relu(x - torch.log1p(beta * x.abs()) / beta)


class Normalise(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return (x - self.mean) / self.std


class Denoise(nn.Module):
    """Feature denoising (Xie et al. 2019): non-local means, a convolution, and what came in."""

    def __init__(self, channels, embed):
        super().__init__()
        if embed:
            self.theta, self.phi = (nn.Conv2d(channels, channels // 2, 1, bias=False) for _ in range(2))
        self.embed, self.conv, self.bn = embed, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        theta, phi = (self.theta(x), self.phi(x)) if self.embed else (x, x)
        affinity = theta.flatten(2).transpose(1, 2) @ phi.flatten(2)  # [N,P,P]
        affinity = (affinity / theta.shape[1] ** 0.5).softmax(2) if self.embed else affinity / affinity.shape[2]
        means = x.flatten(2) @ affinity.transpose(1, 2)
        return x + self.bn(self.conv(means.view_as(x)))


class ConvStem(nn.Module):
    """The convolutional stem of Singh et al. 2023, from the shapes of its arrays; the first ``halvings`` convolutions
    have stride 2."""

    def __init__(self, arrays, act, halvings):
        super().__init__()
        self.stem = nn.Sequential()
        for number in range(1 + max(int(name.split('.')[0]) for name in arrays)):
            weight = arrays.get('{}.weight'.format(number))
            if weight is None:
                self.stem.append(act())
            elif weight.ndim == 1:
                self.stem.append(timm.layers.LayerNorm2d(len(weight), eps=1e-6))
            else:
                out, into, kernel, _ = weight.shape
                self.stem.append(nn.Conv2d(into, out, kernel, 2 if halvings > 0 else 1, kernel // 2))
                halvings -= 1
        if weight.ndim == 1:  # behind each layer norm
            self.stem.append(act())

    def forward(self, x):
        return self.stem(x)


ACTIVATIONS = {'relu': nn.ReLU, 'silu': nn.SiLU, 'gelu': lambda: nn.GELU('tanh'), 'gelu_erf': nn.GELU, 'elu': nn.ELU,
               'softplus': nn.Softplus, 'mish': nn.Mish, 'smoothrelu': SmoothReLU}
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def make_resnet(flags, act, state):
    network = resnet.ResNet(resnet.Bottleneck, BLOCKS[flags['depth']], flags['num_classes'], cardinality=flags['group'],
                            base_width=flags['res2_bottleneck'], act_layer=act)
    for number in range(1, 5):
        layer = getattr(network, 'layer{}'.format(number))
        channels = layer[-1].conv3.out_channels
        if 'layer{}.denoise.conv.weight'.format(number) in state:
            layer.append(Denoise(channels, embed=True))
            layer.denoise = layer.pop(len(layer) - 1)
        for name, block in layer.named_children():
            if 'layer{}.{}.denoise.conv.weight'.format(number, name) in state:
                block.denoise = Denoise(channels, embed=False)
                block.register_forward_hook(lambda module, _, result: module.denoise(result))
    if flags['padding'] != 'symmetric':
        network.maxpool = timm.layers.create_pool2d('max', 3, stride=2, padding='same')
    for module in network.modules():
        if flags['padding'] == 'same' and isinstance(module, nn.Conv2d) and max(module.stride) > 1:
            module.__class__, module.padding = timm.layers.Conv2dSame, (0, 0)
        if isinstance(module, nn.BatchNorm2d):
            module.eps = flags['batch_norm_epsilon']
    return network


def make_efficientnet(flags, act, state):
    return efficientnet._gen_efficientnet(
        'tf_efficientnet_b0', flags['width_coefficient'], flags['depth_coefficient'], pad_type='same', act_layer=act,
        num_classes=flags['num_classes'], bn_eps=flags['batch_norm_epsilon'])


def make_convnext(flags, act, state):
    network = convnext.ConvNeXt(depths=[int(n) for n in flags['blocks'].split(',')],
                                dims=[int(n) for n in flags['widths'].split(',')],
                                num_classes=flags['num_classes'], act_layer=act)
    stem = arrays_below(state, 'stem.stem.')
    if stem:
        network.stem = ConvStem(stem, act, math.log2(flags['patch_size']))
    return network


def make_vit(flags, act, state):
    scaled = 'blocks.0.ls1.gamma' in state  # DeiT-III, which also adds the positions before the class token
    network = vision_transformer.VisionTransformer(
        flags['input_size'], flags['patch_size'], embed_dim=int(flags['widths']), depth=int(flags['blocks']),
        num_heads=flags['heads'], num_classes=flags['num_classes'], act_layer=act, no_embed_class=scaled,
        init_values=1e-6 if scaled else None)
    stem = arrays_below(state, 'patch_embed.proj.stem.')
    if stem:
        network.patch_embed.proj = ConvStem(stem, act, math.log2(flags['patch_size']))
    return network


def arrays_below(state, prefix):
    return {name[len(prefix):]: value for name, value in state.items() if name.startswith(prefix)}


MAKERS = {'ResNet': make_resnet, 'ResNetDenoise': make_resnet, 'ResNeXtDenoiseAll': make_resnet,
          'EfficientNet': make_efficientnet, 'ConvNeXt': make_convnext, 'ViT': make_vit}


def load(path):
    """The network of a file, for images RGB in [0, 1], [N,3,S,S]; and the file's metadata."""
    with safe_open(path, 'pt') as f:
        metadata, state = f.metadata(), {name: f.get_tensor(name) for name in f.keys()}
    flags = json.loads(metadata['flags'])
    act = ACTIVATIONS[flags['activation_name']]
    network = MAKERS[flags['arch']](flags, lambda *_, **__: act(), state)
    missing, unexpected = network.load_state_dict(state, strict=False)
    if unexpected or [name for name in missing if not name.endswith('num_batches_tracked')]:
        sys.exit('{}: timm has no such network: {}'.format(path, (unexpected + missing)[:3]))
    return nn.Sequential(Normalise(*map(json.loads, (metadata['mean'], metadata['std']))), network).eval(), metadata


if __name__ == '__main__':
    import numpy as np
    from PIL import Image

    network, metadata = load(sys.argv[1])
    size = int(metadata['input_size'])
    image = np.array(Image.open(sys.argv[2]).convert('RGB').resize((size, size), Image.BICUBIC))
    with torch.no_grad():
        found = int(network(torch.tensor(image).permute(2, 0, 1)[None] / 255).argmax())
    print(json.loads(metadata['classes'])[found] if 'classes' in metadata else found)
