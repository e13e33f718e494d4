"""Attacks against ART's and Foolbox's: the same graph and start, the same verdict on each image."""
import functools
import importlib

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from sklearn.datasets import load_sample_images
from tensorpack.tfutils.tower import TowerContext

import attack_agreement
from attack_agreement import LIBRARIES, compare, libraries_with
from attacks import balls
from attacks.pgd import FGSMAttacker, MomentumAttacker, NoOpAttacker, PGDAttacker
from networks import make_network
from sat.adapters.tensors import Tensors

pytestmark = [pytest.mark.filterwarnings('ignore:PyTorch not found'),
              pytest.mark.filterwarnings('ignore:Please import `gaussian_filter`:DeprecationWarning')]


@pytest.fixture(scope='module', autouse=True)
def art_is_loaded():
    """Its import ends all log handlers, and absl's closes the stream that it has unless that is sys.stderr, which it
    is not within ``capsys``."""
    importlib.import_module('art')


def photos(count, side):
    """Squares of two photographs, float32 [count, side, side, 3] in [-1, 1]."""
    random, pictures = np.random.default_rng(0), load_sample_images().images
    cuts = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (random.integers(0, length - side) for length in picture.shape[:2])
        cuts.append(picture[top:top + side, left:left + side])
    return np.stack(cuts).astype(np.float32) / 127.5 - 1


def open_network(sess, model, side):
    image, label = tf.placeholder(tf.float32, [None, side, side, 3]), tf.placeholder(tf.int32, [None])
    with TowerContext('', is_training=False):
        return Tensors(sess, image, label, model.get_logits(image))


def check_agreement(found, name):
    assert found.clean.all()
    assert 0.1 < found.ours.mean() < 0.9, '{}: an epsilon at which every image falls, or none'.format(name)
    for library, theirs in found.theirs.items():
        assert np.mean(found.ours == theirs) >= 0.99, (name, library)
        assert found.equal[library] > 0.99, (name, library)


@pytest.mark.slow
@pytest.mark.parametrize('flags, side, count, epsilon', [
    (['--arch', 'EfficientNet', '--width-coefficient', '0.5', '--depth-coefficient', '0.5'], 64, 120, 0.2),
    (['--arch', 'CifarResNet', '-d', '8'], 32, 200, 0.5),
    (['--arch', 'EfficientNet'], 224, 40, 0.1)])
def test_pgd_has_the_same_success_on_99_percent_of_the_images(sess, load_rule_weights, record_property, flags, side,
                                                              count, epsilon):
    model = make_network(*flags, '--input-size', str(side), '--data-format', 'NHWC')
    attacker = PGDAttacker(10, epsilon, epsilon / 4, random_start=False, num_classes=model.num_classes)
    network = open_network(sess, model, side)
    with TowerContext('', is_training=False):
        adv, *_ = model.attack(attacker, network.image, network.label, None)
    load_rule_weights(sess)
    batches = [(x, network.predict(x)) for x in np.array_split(photos(count, side), count // 20)]
    found = compare(network, adv, attacker, batches, LIBRARIES)
    record_property('right', [int(v.sum()) for v in (found.ours, *found.theirs.values())])
    assert list(found.theirs) == ['ART', 'Foolbox']
    check_agreement(found, attacker.name)


# In pixel levels; the radii are such that a part of the images falls. The last ones end inside the ball, where the
# length of their steps shows.
ATTACKERS = [PGDAttacker(10, 12.0, 3.0, random_start=False, norm='L2'),
             PGDAttacker(10, 60.0, 15.0, random_start=False, norm='L1'),
             FGSMAttacker(1.0), FGSMAttacker(12.0, norm='L2'),
             MomentumAttacker(10, 1.0, 0.25), MomentumAttacker(10, 12.0, 3.0, norm='L2')]
ATTACKERS += [PGDAttacker(3, 2 * length, length / 3, random_start=False, norm=norm, enlarge_small_steps=False)
              for norm, length in (('Linf', 1.0), ('L2', 12.0), ('L1', 60.0))]


@pytest.mark.slow
def test_other_attacks_and_norms_too(sess, load_rule_weights, record_property, monkeypatch):
    from art import utils
    from art.attacks.evasion import fast_gradient
    # ART's exact projection in place of its default, which scales.
    monkeypatch.setattr(fast_gradient, 'projection', functools.partial(utils.projection, suboptimal=False))
    side = 8
    model = make_network('--arch', 'CifarResNet', '-d', '8', '--input-size', str(side), '--data-format', 'NHWC')
    network = open_network(sess, model, side)

    def attack(attacker):
        with TowerContext('', is_training=False):
            return model.attack(attacker, network.image, network.label, None)[0]
    cases = [(attacker, attack(attacker), libraries_with(attacker)) for attacker in ATTACKERS]
    monkeypatch.setattr(balls, 'L1_SHARE', 0)  # as ART's L1 steps, which move one element each
    cases += [(attacker, attack(attacker), ['ART']) for attacker in ATTACKERS if attacker.norm == 'L1']
    load_rule_weights(sess)
    # Of half the contrast: at the ends of the range our L1 step passes over elements that ART's would move.
    pictures = photos(200, side) / 2
    batch = pictures, network.predict(pictures)
    for attacker, adv, libraries in cases:
        found = compare(network, adv, attacker, [batch], libraries)
        record_property(attacker.name, [int(v.sum()) for v in (found.ours, *found.theirs.values())] +
                        list(found.equal.values()))
        check_agreement(found, attacker.name)


def test_only_the_same_attacks_are_compared():
    assert [libraries_with(attacker) for attacker in ATTACKERS] == [
        ['ART', 'Foolbox'], ['Foolbox'], ['ART', 'Foolbox'], ['ART', 'Foolbox'], ['ART'], ['ART'],
        ['ART', 'Foolbox'], ['ART', 'Foolbox'], ['Foolbox']]
    assert libraries_with(NoOpAttacker()) == libraries_with(FGSMAttacker(60.0, norm='L1')) == []


DIGITS = ['--arch', 'CifarResNet', '-d', '8', '--num-classes', '10', '--batch', '16']


def test_the_program_on_a_checkpoint_and_images(sess, load_rule_weights, tmp_path, capsys):
    model = make_network(*DIGITS)
    open_network(sess, model, 32)
    load_rule_weights(sess)
    np.savez(tmp_path / 'net.npz', **{v.op.name: sess.run(v) for v in tf.global_variables()})
    with tf.Graph().as_default():
        attack_agreement.run(DIGITS + ['--load', str(tmp_path / 'net.npz'), '--images', '40', '--attack-iter', '5',
                                       '--attack-epsilon', '1', '--attack-step-size', '0.25px'])
    first, *_, art, foolbox = capsys.readouterr().out.splitlines()
    assert first.startswith('40 images, PGD-5, epsilon 1, step 0.25, ')
    assert [line.split(' | ')[0] for line in (art, foolbox)] == ['| ART', '| Foolbox']
    assert '100.00%' in art and '100.00%' in foolbox


@pytest.mark.parametrize('flags, message', [
    (['--attack', 'autoattack'], 'compares pgd in Linf, L2 and L1'), (['--attack-iter', '0'], 'compares pgd'),
    (['--attack', 'momentum', '--norm', 'L1', '--attack-epsilon', '9'], 'compares pgd'), (['--targeted'], 'untargeted'),
    (['--images', '0'], "--images: '0' is no whole number above 0"),
    (['--data', 'EMPTY'], 'EMPTY'), (['-d', '20'], 'net.npz')])
def test_mistakes_end_with_one_line(graph, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'EMPTY').mkdir()
    np.savez('net.npz', **{'fc/b': np.zeros(10, np.float32)})
    with pytest.raises(SystemExit) as ended:
        attack_agreement.run(DIGITS + ['--load', 'net.npz'] + flags)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error
