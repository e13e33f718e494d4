#!/usr/bin/env python
"""Steps of training in PyTorch, as fast as PyTorch's users can have them; see training_step.py, which says the same.

    python benchmarks/torch_step.py --batch 8 --attack-iter 1 --threads 2 --precision bfloat16 --steps 3
    python benchmarks/torch_step.py --network convnext_tiny --batch 8 --attack-iter 2 --threads 2 --compile --steps 3

Needs PyTorch, and timm for its networks (torch_networks.py). A step is what a network's recipe here has
(settings/recipes.py): the attack in inference mode and without gradients of weights, then the pass in training mode,
its gradients, and a fused or foreach optimizer. Not in it: averages of the weights, and what becomes of a batch before
the attack. With --copy the attack is on a copy of the network, made anew in each step, which has batch norm folded and
weights in the precision; else by autocast on the network itself.
"""
import sys
import time

import torch
from torch.nn import functional as F

import measure
import torch_networks as networks

WARM_UP = 2  # steps, as training_step.py has
EPSILON, STEP = 4 / 127.5, 4 / 127.5
FROM_CLEAN = 0.2  # of the starts of PGD


def sgd(network):
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)


def rmsprop(network):
    return torch.optim.RMSprop(network.parameters(), lr=0.016, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5,
                               foreach=True)


def adamw(network):
    return torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)


def within(x, lower, upper):
    return torch.minimum(torch.maximum(x, lower), upper)


def slope(losses, x):
    """(gradient of the losses' sum by the images, losses [N])."""
    found = losses(x.requires_grad_())
    gradient, = torch.autograd.grad(found.sum(), x)
    return gradient, found.detach()


def pgd(losses, image, lower, upper, steps):
    """From a random start, or the image itself."""
    noise = torch.empty_like(image).uniform_(-EPSILON, EPSILON)
    noise *= torch.rand(len(image), 1, 1, 1) >= FROM_CLEAN
    adv = within(image + noise, lower, upper)
    for _ in range(steps):
        gradient, _ = slope(losses, adv)
        with torch.no_grad():
            adv = within(adv + STEP * gradient.sign(), lower, upper)
    return adv


def apgd(losses, image, lower, upper, steps):
    """APGD of two steps (Singh et al. 2023): the point of the largest loss."""
    assert steps == 2
    points, values, before = [image], [], image
    for number in range(steps):
        x = points[-1].clone()
        gradient, found = slope(losses, x)
        with torch.no_grad():
            far = within(x + 2 * EPSILON * gradient.sign(), lower, upper)
            moved = within(x + 0.75 * (far - x) + 0.25 * (x - before), lower, upper) if number else far
        before = x.detach()
        points.append(moved)
        values.append(found)
    with torch.no_grad():
        best = torch.stack([*values, losses(points[-1])]).argmax(0)
        return torch.stack(points)[best, torch.arange(len(best))].contiguous(memory_format=torch.channels_last)


# By the first word of the network's name: attack, optimizer.
RECIPES = {'resnet50': (pgd, sgd), 'efficientnet': (pgd, rmsprop), 'convnext': (apgd, adamw), 'vit': (apgd, adamw),
           'deit3': (apgd, adamw)}


def make_step(args):
    """() -> None: the attack, the pass in training mode on what it found, and the optimizer's step."""
    image, label = networks.start(args)
    network = networks.make_network(args.network, args.conv_stem).train()
    called = networks.compiled(args, network)
    copy = networks.Attacked(network, networks.dtype_of(args)) if args.copy else None
    attacked = networks.compiled(args, copy.network) if copy else called
    attack, optimizer = RECIPES[args.network.partition('_')[0]]
    optimizer = optimizer(network)
    # Mixed labels are distributions.
    truth = label if attack is pgd else 0.9 * F.one_hot(label, 1000).float() + 0.1 / 1000
    lower, upper = (torch.clamp(image + end, -1, 1) for end in (-EPSILON, EPSILON))

    def under_attack(x):
        with networks.autocast(args, not copy):
            logits = attacked(x.to(networks.dtype_of(args)) if copy else x)
        return F.cross_entropy(logits.float(), truth, reduction='none')

    def step():
        if copy:
            copy.refresh()
        else:
            network.eval().requires_grad_(False)
        adv = attack(under_attack, image, lower, upper, args.attack_iter)
        network.train().requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        with networks.autocast(args):
            logits = called(adv)
        F.cross_entropy(logits.float(), truth, label_smoothing=0.1 if attack is pgd else 0.0).backward()
        optimizer.step()
    return step


def run():
    parser = networks.parser(__doc__)
    parser.add_argument('--copy', action='store_true', help='attack a copy')
    parser.add_argument('--steps', type=measure.positive, required=True, help='to be timed')
    parser.add_argument('--in-turns', action='store_true', help='time them for each line that comes')
    args = parser.parse_args()
    step, before = make_step(args), measure.resident()
    for _ in range(WARM_UP):
        step()

    def one():
        begin = time.perf_counter()
        for _ in range(args.steps):
            step()
        measure.say({'images': args.steps * args.batch, 'seconds': time.perf_counter() - begin, 'before': before,
                     'peak': measure.resident(), 'batch': args.batch})
    if args.in_turns:
        measure.say('ready')
        for _ in sys.stdin:
            one()
    else:
        one()


if __name__ == '__main__':
    run()
