#!/usr/bin/env python
"""PGD in PyTorch, as fast as PyTorch's users can have it; see attack_loop.py, which it is compared with.

    echo | python benchmarks/torch_loop.py --batch 8 --attack-iter 4 --threads 2 --precision bfloat16 --fold --compile
    echo | python benchmarks/torch_loop.py --network convnext_tiny --conv-stem --batch 8 --attack-iter 4 --threads 2

Needs PyTorch, and timm for its networks (torch_networks.py). The network is channels last and in inference mode, and no
gradient of a weight is computed.
"""
import sys
import time

import torch
from torch.nn import functional as F

import measure
import torch_networks as networks


def make_attack(args):
    """() -> adversarial images: PGD with a random start, epsilon 8 and step 2 pixel levels."""
    image, label = networks.start(args)
    network = networks.make_network(args.network, args.conv_stem).requires_grad_(False).eval()
    dtype = networks.dtype_of(args)
    if args.fold:
        network = networks.Attacked(network, torch.float32).network
    if args.cast:
        network = network.to(dtype)
    called = networks.compiled(args, network)
    epsilon, step = 8 / 127.5, 2 / 127.5
    lower, upper = (torch.clamp(image + end, -1, 1) for end in (-epsilon, epsilon))

    def attack():
        adv = image + torch.empty_like(image).uniform_(-epsilon, epsilon)
        for _ in range(args.attack_iter):
            adv = adv.requires_grad_()
            with networks.autocast(args, not args.cast):
                logits = called(adv.to(dtype) if args.cast else adv)
            loss = F.cross_entropy(logits.float(), label, reduction='sum')
            gradient, = torch.autograd.grad(loss, adv)
            with torch.no_grad():
                adv = torch.minimum(torch.maximum(adv + step * gradient.sign(), lower), upper)
        return adv
    return attack


def run():
    parser = networks.parser(__doc__)
    parser.add_argument('--cast', action='store_true', help='weights and all in the precision, else by autocast')
    parser.add_argument('--fold', action='store_true', help='batch norm into the convolutions')
    args = parser.parse_args()
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
