"""AutoAttack's own code on a network (github.com/fra31/auto-attack, with PyTorch): with_autoattack.py RUN [FOLDER]"""
import sys

import torch

import autoattack
import sat
from sat.adapters.with_autoattack import forward_pass

with sat.load(sys.argv[1]) as net:
    sample = net.images(*sys.argv[2:], count=40)
    images = torch.from_numpy(sample.images.clip(0, 255) / 255).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(sample.labels).long()
    adversary = autoattack.AutoAttack(forward_pass(net), norm='Linf', eps=16 / 255, device='cpu')
    adv = adversary.run_standard_evaluation(images, labels, bs=40)
    print('robust: {:.0%}'.format((forward_pass(net)(adv).argmax(1) == labels).float().mean().item()))
