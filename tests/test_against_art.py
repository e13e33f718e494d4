"""Attacks against the Adversarial Robustness Toolbox's: the same graph and start, the same verdict on each image."""
import functools
import os
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from sklearn.datasets import load_sample_images
from tensorpack.tfutils.tower import TowerContext

import norms
from adv_model import PGDAttacker
from attacks import FGSMAttacker, MomentumAttacker
from networks import make_network

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'benchmarks'))
from attack_agreement import attack_both  # noqa: E402


def photos(count, side):
    """Squares of two photographs, float32 [count, side, side, 3] in [-1, 1]."""
    random, pictures = np.random.default_rng(0), load_sample_images().images
    cuts = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (random.integers(0, length - side) for length in picture.shape[:2])
        cuts.append(picture[top:top + side, left:left + side])
    return np.stack(cuts).astype(np.float32) / 127.5 - 1


@pytest.mark.filterwarnings('ignore:PyTorch not found')
@pytest.mark.parametrize('flags, side, count, epsilon', [
    pytest.param(['--arch', 'EfficientNet', '--width-coefficient', '0.5', '--depth-coefficient', '0.5'], 64, 120, 0.2,
                 marks=pytest.mark.slow),
    (['--arch', 'CifarResNet', '-d', '8'], 32, 200, 0.5),
    pytest.param(['--arch', 'EfficientNet'], 224, 40, 0.1, marks=pytest.mark.slow)])
def test_pgd_has_the_same_success_on_99_percent_of_the_images(sess, load_rule_weights, record_property, flags, side,
                                                              count, epsilon):
    model = make_network(*flags, '--input-size', str(side), '--data-format', 'NHWC')
    attacker = PGDAttacker(10, epsilon, epsilon / 4, random_start=False, num_classes=model.num_classes)
    image, label = tf.placeholder(tf.float32, [None, side, side, 3]), tf.placeholder(tf.int32, [None])
    with TowerContext('', is_training=False):
        logits = model.get_logits(image)
        adv, _ = model.attack(attacker, image, label, None)
    load_rule_weights(sess)
    batches = [(x, sess.run(logits, {image: x}).argmax(1)) for x in np.array_split(photos(count, side), count // 20)]
    clean, ours, arts, equal = attack_both(sess, image, label, logits, adv, batches, attacker)
    record_property('right', [int(v.sum()) for v in (clean, ours, arts)])
    assert clean.all()
    assert 0.1 < ours.mean() < 0.9, 'an epsilon at which every image falls, or none, compares nothing'
    assert np.mean(ours == arts) >= 0.99
    assert equal > 0.99


# In pixel levels; the radii are such that a part of the images falls.
ATTACKERS = [PGDAttacker(10, 12.0, 3.0, random_start=False, norm='L2'),
             PGDAttacker(10, 60.0, 15.0, random_start=False, norm='L1'),
             FGSMAttacker(1.0), FGSMAttacker(12.0, norm='L2'),
             MomentumAttacker(10, 1.0, 0.25), MomentumAttacker(10, 12.0, 3.0, norm='L2')]


@pytest.mark.filterwarnings('ignore:PyTorch not found')
def test_other_attacks_and_norms_too(sess, load_rule_weights, record_property, monkeypatch):
    from art import utils
    from art.attacks.evasion import fast_gradient
    # As ART's L1 steps, which move one element each; and its exact projection in place of its default, which scales.
    monkeypatch.setattr(norms, 'L1_SHARE', 0)
    monkeypatch.setattr(fast_gradient, 'projection', functools.partial(utils.projection, suboptimal=False))
    side = 8
    model = make_network('--arch', 'CifarResNet', '-d', '8', '--input-size', str(side), '--data-format', 'NHWC')
    image, label = tf.placeholder(tf.float32, [None, side, side, 3]), tf.placeholder(tf.int32, [None])
    with TowerContext('', is_training=False):
        logits = model.get_logits(image)
        advs = [model.attack(attacker, image, label, None)[0] for attacker in ATTACKERS]
    load_rule_weights(sess)
    # Of half the contrast: at the ends of the range our L1 step passes over elements that ART's would move.
    pictures = photos(200, side) / 2
    batch = pictures, sess.run(logits, {image: pictures}).argmax(1)
    for attacker, adv in zip(ATTACKERS, advs):
        clean, ours, arts, equal = attack_both(sess, image, label, logits, adv, [batch], attacker)
        record_property(attacker.name, [int(v.sum()) for v in (clean, ours, arts)] + [equal])
        assert clean.all()
        assert 0.1 < ours.mean() < 0.9, '{}: an epsilon at which every image falls, or none'.format(attacker.name)
        assert np.mean(ours == arts) >= 0.99, attacker.name
        assert equal > 0.99, attacker.name
