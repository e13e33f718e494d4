#!/usr/bin/env python
"""PGD on ResNet-50 in PyTorch, as fast as PyTorch's users can have it; see attack_loop.py, which it is compared with.

    echo | python benchmarks/torch_loop.py --batch 8 --attack-iter 4 --threads 2 --precision bfloat16 --fold --compile

Needs PyTorch and nothing of this project but measure.py. The network is He et al.'s (2015) with SiLU, channels last,
in inference mode, and no gradient of a weight is computed.
"""
import argparse
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

import measure


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


def fold(network):
    """Batch norm into the convolutions before it."""
    for part in network.modules():
        for name, child in part.named_children():
            if isinstance(child, Normed):
                setattr(part, name, fuse_conv_bn_eval(*child))


def make_attack(args):
    """() -> adversarial images: PGD with a random start, epsilon 8 and step 2 pixel levels."""
    torch.manual_seed(0)
    network = ResNet50().eval().requires_grad_(False)
    if args.fold:
        fold(network)
    network = network.to(memory_format=torch.channels_last)
    dtype = getattr(torch, args.precision)
    if args.cast:
        network = network.to(dtype)
    if args.compile:
        network = torch.compile(network)
    image = (torch.rand(args.batch, 3, 224, 224) * 2 - 1).contiguous(memory_format=torch.channels_last)
    label = torch.randint(0, 1000, [args.batch])
    epsilon, step = 8 / 127.5, 2 / 127.5
    lower, upper = (torch.clamp(image + end, -1, 1) for end in (-epsilon, epsilon))
    autocast = torch.autocast('cpu', dtype, enabled=dtype != torch.float32 and not args.cast)

    def attack():
        adv = image + torch.empty_like(image).uniform_(-epsilon, epsilon)
        for _ in range(args.attack_iter):
            adv = adv.requires_grad_()
            with autocast:
                logits = network(adv.to(dtype) if args.cast else adv)
            loss = F.cross_entropy(logits.float(), label, reduction='sum')
            gradient, = torch.autograd.grad(loss, adv)
            with torch.no_grad():
                adv = torch.minimum(torch.maximum(adv + step * gradient.sign(), lower), upper)
        return adv
    return attack


def run():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--batch', type=measure.positive, required=True)
    parser.add_argument('--attack-iter', type=measure.positive, required=True)
    parser.add_argument('--threads', type=measure.positive, required=True)
    parser.add_argument('--precision', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--cast', action='store_true', help='weights and all in the precision, else by autocast')
    parser.add_argument('--fold', action='store_true', help='batch norm into the convolutions')
    parser.add_argument('--compile', action='store_true', help='torch.compile')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    attack = make_attack(args)
    for _ in range(2):
        attack()
    measure.say('ready')
    for _ in sys.stdin:
        begin = time.time()
        attack()
        measure.say({'image-steps/s': args.batch * args.attack_iter / (time.time() - begin)})


if __name__ == '__main__':
    run()
