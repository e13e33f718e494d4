#!/usr/bin/env python
"""Are our attacks those that others mean? Compares them image by image with the Adversarial Robustness Toolbox's (ART).

Both attack the same graph with the same weights from the same images (no random start), so that every image should
fall to both or to neither.

    .venv/bin/python benchmarks/attack_agreement.py --load b0.npz --data imagenet --arch EfficientNet \\
        --attack-iter 10 --attack-epsilon 4 --attack-step-size 1

Takes main.py's flags of --eval: pgd, fgsm and momentum, untargeted, in Linf and L2 (in L1 ART's steps move one element
each, ours SLIDE's share of them). Needs requirements-test.txt.
"""
import os
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import numpy as np
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import checkpoints
import commands
import main
from adv_model import PIXEL, image_preprocess
from attacks import FGSMAttacker, MomentumAttacker
from third_party.imagenet_utils import open_dataset
from third_party.utils import Ranks, session_config


def arts_attack(classifier, attacker):
    """ART's attack of the same kind and lengths as ``attacker`` (PGDAttacker), from the clean image."""
    from art.attacks.evasion import FastGradientMethod, MomentumIterativeMethod, ProjectedGradientDescentNumpy
    options = dict(norm={'Linf': np.inf, 'L2': 2, 'L1': 1}[attacker.norm], eps=attacker.epsilon * PIXEL,
                   batch_size=10 ** 6)
    if isinstance(attacker, FGSMAttacker):
        return FastGradientMethod(classifier, **options)
    options.update(eps_step=attacker.step_size * PIXEL, max_iter=attacker.num_iter, verbose=False)
    if isinstance(attacker, MomentumAttacker):
        return MomentumIterativeMethod(classifier, decay=attacker.decay, **options)
    return ProjectedGradientDescentNumpy(classifier, num_random_init=0, **options)


def attack_both(session, image, label, logits, attack_graph, batches, attacker):
    """Attack batches with both implementations.

    Args:
        session (tf.Session): with the weights loaded.
        image, label (tf.Tensor): placeholders, float32 images in the network's layout and scale, and int labels.
        logits (tf.Tensor): of ``image``. attack_graph (tf.Tensor): our adversarial images of ``image``.
        batches: iterable of image, label (np.ndarray).
        attacker (PGDAttacker): untargeted, from the clean image; whose parameters ART takes.
    Returns:
        clean, ours, arts: bool [N], whether each image is right without an attack and after either of them; and the share
        of image elements that are equal in both adversarial images, to a tenth of a pixel level.
    """
    from art.estimators.classification import TensorFlowClassifier
    one_hot = tf.placeholder(tf.float32, [None, int(logits.shape[1])])
    loss = tf.reduce_sum(tf.nn.softmax_cross_entropy_with_logits_v2(labels=one_hot, logits=logits))
    classifier = TensorFlowClassifier(image, logits, labels_ph=one_hot, loss=loss, sess=session, clip_values=(-1, 1),
                                      channels_first=int(image.shape[1]) == 3)
    art = arts_attack(classifier, attacker)
    rights, equal = [], []
    for x, y in batches:
        found = [x, session.run(attack_graph, {image: x, label: y}), art.generate(x=x, y=y)]
        rights.append([session.run(logits, {image: adv}).argmax(1) == y for adv in found])
        equal.append(np.abs(found[1] - found[2]) < 0.1 * PIXEL)
    return tuple(np.concatenate(rights, axis=1)) + (float(np.concatenate(equal).mean()),)


def run(argv):
    args = main.parse_args(['--eval'] + argv)
    model = commands.make_model(args)
    attacker = commands.make_evaluation_attacker(args)
    if args.attack == 'autoattack' or args.norm == 'L1' or args.targeted or not attacker:
        sys.exit('attack_agreement.py: error: compares pgd, fgsm and momentum alone, untargeted, in Linf and L2')
    attacker.random_start = False
    raw = tf.placeholder(tf.float32, [None, args.input_size, args.input_size, 3])
    # Both start from valid images; EfficientNet's resizing may leave the range a little.
    prepared = tf.clip_by_value(image_preprocess(raw, model.data_format, model.channels), -1, 1)
    image, label = tf.placeholder(tf.float32, prepared.shape), tf.placeholder(tf.int32, [None])
    with TowerContext('', is_training=False):
        logits = model.get_logits(image)
        adv, _ = model.attack(attacker, image, label, None)
    dataset = open_dataset(args.data, 'val', args.num_classes, checkpoints.read_classes(args.load))
    with tf.Session(config=session_config(Ranks())) as session:
        checkpoints.load_into(session, checkpoints.match(tf.global_variables(), checkpoints.read(args.load), args.load,
                                                         averages=args.moving_average_decay > 0))

        def batches():
            for x, y, index in commands.validation_batches(args, dataset, Ranks(), args.augmentation):
                yield session.run(prepared, {raw: x[index >= 0]}), y[index >= 0]
        clean, ours, arts, equal = attack_both(session, image, label, logits, adv, batches(), attacker)
    print('{} images, {}, epsilon {:g}, step {:g}: right without attack {}, after ours {}, after ART\'s {}'.format(
        len(clean), attacker.name, attacker.epsilon, attacker.step_size, clean.sum(), ours.sum(), arts.sum()))
    print('same verdict on {:.2f}% of the images; {:.3f}% of the elements equal'.format(
        100 * np.mean(ours == arts), 100 * equal))


if __name__ == '__main__':
    run(sys.argv[1:])
