"""An attack of the Adversarial Robustness Toolbox on a network: with_art.py RUN [FOLDER]"""
import sys

from art.attacks.evasion import ProjectedGradientDescent

import sat
from sat.adapters.with_art import art_classifier

with sat.load(sys.argv[1]) as net:
    sample = net.images(*sys.argv[2:], count=40)
    images, classifier = sample.images.clip(0, 255) / 255, art_classifier(net)
    attack = ProjectedGradientDescent(classifier, eps=16 / 255, eps_step=4 / 255, max_iter=10, num_random_init=1,
                                      verbose=False)
    adv = attack.generate(images, sample.labels)
    for name, pixels in ('clean', images), ('PGD', adv):
        print('{}: {:.0%}'.format(name, (classifier.predict(pixels).argmax(1) == sample.labels).mean()))
