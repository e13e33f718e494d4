#!/usr/bin/env python
"""Are our attacks those that others mean? Compares them image by image with ART's and Foolbox's.

All attack the same graph with the same weights from the same images (no random start), so that every image should
fall to all or to none.

    .venv/bin/python benchmarks/attack_agreement.py --load b0.npz --data imagenet --arch EfficientNet \\
        --moving-average-decay 0 --attack-iter 10 --attack-epsilon 4 --attack-step-size 1 --images 400

Takes main.py's flags of --eval, untargeted. The Adversarial Robustness Toolbox (ART) has the same pgd, fgsm and
momentum in Linf and L2, Foolbox the same pgd in all norms and fgsm in Linf and L2. Prints a Markdown table. Needs
requirements-test.txt.
"""
import dataclasses
import sys
from typing import Dict, NamedTuple

from machine.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

import numpy as np
from tensorpack.tfutils.tower import TowerContext

from attack_case import asked, get_parser, open_case, parse
from attacks.parts import CLEAN_START
from attacks.threat import PIXEL
from commands.networks import make_evaluation_attacker
from ranks.end import fail
from settings.resolve import resolve

PGD, FGSM, MOMENTUM = 'PGD', 'FGSM', 'MI-FGSM'  # families of our attacks


def arts_attack(network, attacker):
    """ART's attack of the same family and lengths as ``attacker`` (GradientAttacker), from the clean image.

    Returns:
        function (image, label) -> adversarial image, of np.ndarrays.
    """
    from art.attacks.evasion import FastGradientMethod, MomentumIterativeMethod, ProjectedGradientDescentNumpy

    from sat.adapters.with_art import classifier_of
    classifier = classifier_of(network)
    options = dict(norm={'Linf': np.inf, 'L2': 2, 'L1': 1}[attacker.norm], eps=attacker.epsilon * PIXEL,
                   batch_size=10 ** 6)
    if attacker.family == FGSM:
        art = FastGradientMethod(classifier, **options)
    else:
        options.update(eps_step=attacker.step_size * PIXEL, max_iter=attacker.num_iter, verbose=False)
        if attacker.family == MOMENTUM:
            art = MomentumIterativeMethod(classifier, decay=attacker.memory.decay, **options)
        else:
            art = ProjectedGradientDescentNumpy(classifier, num_random_init=0, **options)
    return lambda image, label: art.generate(x=image, y=label)


def foolboxs_attack(network, attacker):
    """Foolbox's; see ``arts_attack``."""
    from foolbox import attacks

    from sat.adapters.with_foolbox import SessionModel, in_session
    model = SessionModel(network)
    if attacker.family == FGSM:
        kind = {'Linf': attacks.LinfFastGradientAttack, 'L2': attacks.L2FastGradientAttack}[attacker.norm]
        attack = in_session(kind)(random_start=False)
    else:
        kind = {'Linf': attacks.LinfPGD, 'L2': attacks.L2PGD, 'L1': attacks.SparseL1DescentAttack}[attacker.norm]
        attack = in_session(kind)(abs_stepsize=attacker.step_size * PIXEL, steps=attacker.num_iter, random_start=False)

    def generate(image, label):
        _, adv, _ = attack(model, image, label, epsilons=attacker.epsilon * PIXEL)
        return adv
    return generate


LIBRARIES = {'ART': arts_attack, 'Foolbox': foolboxs_attack}
# Norms in which a library means the same by an attack. ART's steps in L1 move one element each, ours and Foolbox's
# SLIDE's share of them; Foolbox's MI-FGSM sums the signs of the gradients (Dong et al. 2018: the gradients).
_SAME = {'ART': {PGD: ('Linf', 'L2'), FGSM: ('Linf', 'L2'), MOMENTUM: ('Linf', 'L2')},
         'Foolbox': {PGD: ('Linf', 'L2', 'L1'), FGSM: ('Linf', 'L2')}}


def libraries_with(attacker):
    """Names of ``LIBRARIES`` that have the attack of ``attacker``: what ``--eval`` attacks with, untargeted."""
    return [name for name, norms in _SAME.items()
            if attacker.norm in norms.get(getattr(attacker, 'family', None), ())]


class Agreement(NamedTuple):
    """What several implementations of an attack did to the same images.

    clean, ours: bool [N], whether each image is right without an attack and after ours. theirs: the same after that of
    each library. equal: by library, the share of image elements that are equal in ours and theirs, to a hundredth of
    the largest change that ours made to the image.
    """
    clean: np.ndarray
    ours: np.ndarray
    theirs: Dict[str, np.ndarray]
    equal: Dict[str, float]


def compare(network, adv, attacker, batches, libraries):
    """Attack batches with our implementation and with others.

    Args:
        network (Tensors). adv (tf.Tensor): our adversarial images of ``network.image``.
        attacker (GradientAttacker): untargeted, from the clean image; whose parameters the others take.
        batches: iterable of image, label (np.ndarray). libraries: names of ``LIBRARIES``.
    Returns:
        Agreement.
    """
    others = {name: LIBRARIES[name](network, attacker) for name in libraries}
    right = {name: [] for name in ('clean', 'ours', *others)}
    equal = {name: [] for name in others}
    for image, label in batches:
        found = {'clean': image, 'ours': network.session.run(adv, {network.image: image, network.label: label})}
        found.update((name, generate(image, label)) for name, generate in others.items())
        for name, attacked in found.items():
            right[name].append(network.predict(attacked) == label)
        largest = np.abs(found['ours'] - image).max(axis=(1, 2, 3), keepdims=True)
        for name in others:
            equal[name].append(np.abs(found['ours'] - found[name]) <= 0.01 * largest)
    right = {name: np.concatenate(parts) for name, parts in right.items()}
    return Agreement(right.pop('clean'), right.pop('ours'), right,
                     {name: float(np.concatenate(parts).mean()) for name, parts in equal.items()})


def run(argv):
    own, args = parse(get_parser(__doc__, '--eval'), argv)
    attacker = asked(lambda: make_evaluation_attacker(resolve(args)))
    libraries = libraries_with(attacker)
    if args.targeted or not libraries:
        fail('compares pgd in Linf, L2 and L1, fgsm and momentum in Linf and L2, all untargeted', 0)
    attacker = dataclasses.replace(attacker, start=CLEAN_START)
    case = asked(lambda: open_case(args, own.images))
    network = case.network
    with TowerContext('', is_training=False):
        adv = case.model.attack(attacker, network.image, network.label, None).image
    # All start from valid images; EfficientNet's resizing may leave the range a little.
    image = np.clip(case.image, -1, 1)
    batches = ((image[rows], case.label[rows]) for rows in case.batches(np.arange(len(image)), args.batch))
    with network.session:
        found = compare(network, adv, attacker, batches, libraries)
    print('{} images, {}, epsilon {:g}, step {:g}, from the clean image; right without an attack: {}\n'.format(
        len(image), attacker.name, attacker.epsilon, attacker.step_size, found.clean.sum()))
    print('| library | right after ours | right after theirs | same verdict | elements equal |\n|---|---|---|---|---|')
    for name, theirs in found.theirs.items():
        print('| {} | {} | {} | {:.2f}% | {:.3f}% |'.format(
            name, found.ours.sum(), theirs.sum(), 100 * np.mean(found.ours == theirs), 100 * found.equal[name]))


if __name__ == '__main__':
    run(sys.argv[1:])
