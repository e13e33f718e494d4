#!/usr/bin/env python
"""PGD in PyTorch, as fast as PyTorch's users can have it; see attack_loop.py, which it is compared with.

    echo | python benchmarks/torch_loop.py --batch 8 --attack-iter 4 --threads 2 --precision bfloat16 --fold --compile
    echo | python benchmarks/torch_loop.py --network convnext_tiny --conv-stem --batch 8 --attack-iter 4 --threads 2

Needs PyTorch, timm for its networks, and nothing of this project but measure.py. The network is He et al.'s (2015)
ResNet-50 with SiLU or one of timm's ConvNeXts and vision transformers, channels last, in inference mode, and no
gradient of a weight is computed. With --train-steps it is a step of training instead: APGD of 2 steps on soft labels,
then the gradients of the weights and AdamW (Singh et al. 2023).
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
    """ResNet-50, or a network of timm's by its name there."""
    if name == 'resnet50':
        return ResNet50()
    import timm
    network = timm.create_model(name)
    if conv_stem and name.startswith('convnext'):
        width = network.stem[0].out_channels
        network.stem = ConvStem((width // 2, width))
    elif conv_stem:
        network.patch_embed.proj = ConvStem((48, 96, 192, 384), network.embed_dim)
    return network


def fold(network):
    """Batch norm into the convolutions before it."""
    for part in network.modules():
        for name, child in part.named_children():
            if isinstance(child, Normed):
                setattr(part, name, fuse_conv_bn_eval(*child))


def prepared(args):
    """(network, images [N,3,S,S] in [-1, 1], labels)."""
    torch.manual_seed(0)
    network = make_network(args.network, args.conv_stem).requires_grad_(bool(args.train_steps))
    network = network.train() if args.train_steps else network.eval()
    if args.fold:
        fold(network)
    network = network.to(memory_format=torch.channels_last)
    if args.cast:
        network = network.to(getattr(torch, args.precision))
    image = torch.rand(args.batch, 3, 224, 224) * 2 - 1
    return network, image.contiguous(memory_format=torch.channels_last), torch.randint(0, 1000, [args.batch])


def autocast(args):
    dtype = getattr(torch, args.precision)
    return torch.autocast('cpu', dtype, enabled=dtype != torch.float32 and not args.cast)


def make_attack(args):
    """() -> adversarial images: PGD with a random start, epsilon 8 and step 2 pixel levels."""
    network, image, label = prepared(args)
    called = torch.compile(network) if args.compile else network
    dtype = getattr(torch, args.precision)
    epsilon, step = 8 / 127.5, 2 / 127.5
    lower, upper = (torch.clamp(image + end, -1, 1) for end in (-epsilon, epsilon))

    def attack():
        adv = image + torch.empty_like(image).uniform_(-epsilon, epsilon)
        for _ in range(args.attack_iter):
            adv = adv.requires_grad_()
            with autocast(args):
                logits = called(adv.to(dtype) if args.cast else adv)
            loss = F.cross_entropy(logits.float(), label, reduction='sum')
            gradient, = torch.autograd.grad(loss, adv)
            with torch.no_grad():
                adv = torch.minimum(torch.maximum(adv + step * gradient.sign(), lower), upper)
        return adv
    return attack


def make_step(args):
    """() -> None, a step of training: APGD of 2 steps (Singh et al. 2023), then AdamW on the point of the largest loss.

    The weights' gradients are asked for in the last pass alone: the attack is to the image.
    """
    network, image, label = prepared(args)
    truth = 0.9 * F.one_hot(label, 1000).float() + 0.1 / 1000
    called = torch.compile(network) if args.compile else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    epsilon = 4 / 127.5
    lower, upper = (torch.clamp(image + end, -1, 1) for end in (-epsilon, epsilon))

    def losses(x):
        with autocast(args):
            logits = called(x)
        return F.cross_entropy(logits.float(), truth, reduction='none')

    def climb(x, before):
        network.requires_grad_(False)
        loss = losses(x.requires_grad_())
        gradient, = torch.autograd.grad(loss.sum(), x)
        with torch.no_grad():
            far = torch.minimum(torch.maximum(x + 2 * epsilon * gradient.sign(), lower), upper)
            moved = far if before is None else x + 0.75 * (far - x) + 0.25 * (x - before)
            return torch.minimum(torch.maximum(moved, lower), upper), loss.detach()

    def step():
        first, loss = climb(image.clone(), None)
        second, loss_of_first = climb(first, image)
        with torch.no_grad():
            found = torch.stack([loss, loss_of_first, losses(second)]).argmax(0)
            points = torch.stack([image, first.detach(), second])
            adv = points[found, torch.arange(len(found))].contiguous(memory_format=torch.channels_last)
        network.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        losses(adv).mean().backward()
        optimizer.step()
    return step


def run():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
    parser.add_argument('--network', default='resnet50', metavar='NAME',
                        help="one of timm's, or the default: %(default)s with SiLU")
    parser.add_argument('--conv-stem', action='store_true', help="in place of timm's first convolution")
    parser.add_argument('--batch', type=measure.positive, required=True)
    parser.add_argument('--attack-iter', type=measure.positive, default=4)
    parser.add_argument('--train-steps', type=measure.positive, metavar='N',
                        help='time so many steps of training, and end')
    parser.add_argument('--threads', type=measure.positive, required=True)
    parser.add_argument('--precision', choices=('float32', 'bfloat16'), default='float32')
    parser.add_argument('--cast', action='store_true', help='weights and all in the precision, else by autocast')
    parser.add_argument('--fold', action='store_true', help='batch norm into the convolutions')
    parser.add_argument('--compile', action='store_true', help='torch.compile')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work = make_step(args) if args.train_steps else make_attack(args)
    for _ in range(2):
        work()
    if args.train_steps:
        begin = time.time()
        for _ in range(args.train_steps):
            work()
        measure.say({'images': args.train_steps * args.batch, 'seconds': time.time() - begin})
        return
    measure.say('ready')
    for _ in sys.stdin:
        begin = time.time()
        work()
        measure.say({'image-steps/s': args.batch * args.attack_iter / (time.time() - begin)})


if __name__ == '__main__':
    run()
