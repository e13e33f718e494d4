"""Foolbox's attacks on a network: with_foolbox.py RUN [FOLDER]"""
import sys

import foolbox

import sat
from sat.adapters.with_foolbox import foolbox_model, in_session

with sat.load(sys.argv[1]) as net:
    sample = net.images(*sys.argv[2:], count=40)
    images, model = sample.images.clip(0, 255) / 255, foolbox_model(net)
    print('clean: {:.0%}'.format(foolbox.accuracy(model, images, sample.labels)))
    # Attacks by gradients climb in the session; those without need nothing.
    for attack in (in_session(foolbox.attacks.LinfPGD)(steps=10),
                   foolbox.attacks.LinfRepeatedAdditiveUniformNoiseAttack()):
        _, adv, success = attack(model, images, sample.labels, epsilons=16 / 255)
        print('{}: {:.0%}'.format(type(attack).__name__, 1 - success.mean()))
