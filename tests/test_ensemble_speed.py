"""The benchmark of AutoAttack's passes and speed, on the tiny network and on the digits."""
import argparse
import json

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.tower import TowerContext

import ensemble_speed
import tiny_cnn
from adv_model import AdvImageNetModel
from attack_case import Case
from attack_passes import Passes, Rounds
from attacks.autoattack.apgd import APGDAttacker
from attacks.autoattack.ensemble import make_attackers
from attacks.autoattack.fab import FABAttacker
from attacks.autoattack.square import SquareAttacker
from attacks.ensemble import Ensemble
from ensemble_speed import Cost, PlainLoops, measure
from networks import make_network
from sat.adapters.tensors import Tensors

CLEAN, LABEL = tiny_cnn.images()
ARGS = argparse.Namespace(batch=16, num_classes=10, attack_gradient=None)


def short(norm='Linf', epsilon=2.0):
    options = dict(norm=norm, epsilon=epsilon, num_classes=10)
    return [APGDAttacker('apgd-ce', num_iter=4, restarts=1, **options),
            APGDAttacker('apgd-t', num_iter=4, restarts=1, targets=2, **options),
            FABAttacker('fab-t', num_iter=3, targets=2, **options), SquareAttacker(num_queries=20, **options)]


@pytest.fixture
def case(sess):
    class TinyModel(AdvImageNetModel):
        image_shape, num_classes, channels, data_format = 16, 10, 'RGB', 'NCHW'

        def network(self, image):
            return tiny_cnn.get_logits(image)
    model = TinyModel()
    image, label = tf.placeholder(tf.float32, [None, 3, 16, 16]), tf.placeholder(tf.int32, [None])
    with TowerContext('', is_training=False):
        network = Tensors(sess, image, label, model.get_logits(image))
    return Case(model, network, 2 * CLEAN - 1, LABEL, np.arange(64, dtype=np.int32))


# The published code's numbers, of an image that no attack breaks; the first pass tells its label.
@pytest.mark.parametrize('version, norm, expected', [
    ('standard', 'Linf', [(1 + 101, 101), (1 + 909, 909), (1 + 1800, 900), (1 + 5001, 0)]),
    ('standard', 'L1', [(1 + 5 * 103, 5 * 103), (1 + 5 * 103, 5 * 103), (1 + 1800, 900), (1 + 5001, 0)]),
    ('rand', 'L2', [(1 + 101 * 20, 101 * 20)] * 2),
    ('fab', 'Linf', [(1 + 5 * 200, 5 * 100 * 10)])])
def test_the_published_passes_of_an_image_that_stands(version, norm, expected):
    attackers = make_attackers(version, norm, 8.0, 10)
    assert [Rounds.of(a.describe(), 10).of_one() for a in attackers] == expected


def test_the_published_passes_of_a_batch():
    rounds = Rounds.of(short()[1].describe(), 10)
    assert rounds == (5, 5, 2)
    assert rounds.of_batch([9] + 5 * [8] + 5 * [3]) == (9 + 5 * 8 + 5 * 3, 5 * 8 + 5 * 3)
    assert rounds.of_batch([9] + 5 * [8]) == (9 + 5 * 8, 5 * 8)
    assert rounds.of_batch([9]) == (9, 0)
    # More rounds than there are targets do not become the published code's.
    assert rounds.of_batch([9] + 15 * [8]) == (9 + 10 * 8, 10 * 8)


def made(forward, backward):
    passes = Passes(None)
    passes.forward, passes.backward = forward, backward
    return passes


def test_a_cost_adds_batches_up():
    cost = Cost(short()[1], 10)
    cost.add(made([9] + 5 * [8] + 5 * [3], 5 * [8] + 5 * [3]), 2, 4.0, np.array([0.01, 0.03]))
    cost.add(made([9] + 5 * [9] + 5 * [1], 5 * [9] + 5 * [1]), 0, 1.0, np.array([0.02, 0.02]))
    assert (cost.images, cost.standing, cost.seconds) == (18, 2, 5.0)
    assert cost.passes == cost.published == [9 + 55 + 9 + 50, 55 + 50]
    assert cost.passes_of_one == cost.published_of_one == [11, 10]
    assert cost.plain_seconds == pytest.approx(64 * 0.01 + 55 * 0.03 + 59 * 0.02 + 50 * 0.02)
    assert cost.images_a_pass == (123 + 105) / 42
    assert cost.as_published and json.loads(json.dumps(cost.describe()))['passes'] == [123, 105]


@pytest.mark.parametrize('forward, backward', [
    ([9] + 6 * [8] + 5 * [3], 5 * [8] + 5 * [3]), ([9] + 5 * [8] + 5 * [3], 6 * [8] + 5 * [3]),
    ([9] + 15 * [8], 15 * [8])])
def test_a_pass_more_than_published_is_seen(forward, backward):
    cost = Cost(short()[1], 10)
    cost.add(made(forward, backward), 1, 1.0, np.ones(2))
    assert not cost.as_published


@pytest.mark.slow
def test_attacks_are_an_evaluations_and_as_long_as_published(sess, case):
    costs = list(measure(case, short(), ARGS))
    standing = np.arange(64)
    for attacker, cost in zip(short(), costs):
        seeds = np.stack([np.zeros(len(standing), np.int64), standing], axis=1)
        robust, _ = tiny_cnn.attack(sess, attacker, rows=standing, seeds=seeds + [[1, 0]])
        standing = standing[robust]
        assert cost.standing == len(standing)
        assert cost.passes == cost.published and cost.passes_of_one == cost.published_of_one
        assert cost.as_published and cost.seconds > 0 and cost.plain_seconds > 0
    assert [cost.images for cost in costs] == [48] + [cost.standing for cost in costs[:-1]]
    assert costs[0].passes == [48 + 48 * 5, 48 * 5] and 0 < costs[-1].standing < 48


class Wasteful(APGDAttacker):
    """Looks at each point twice."""

    def _evaluate(self, victims, labels, point):
        with tf.control_dependencies([victims.get_logits(point)]):
            return super()._evaluate(victims, labels, tf.identity(point))


def test_a_wasteful_attack_is_found_out(case):
    cost, = measure(case, [Wasteful('apgd-ce', 'Linf', 2.0, 10, num_iter=4, restarts=1)], ARGS)
    assert cost.passes == [48 + 48 * 10, 48 * 5] and cost.published == [48 + 48 * 5, 48 * 5]
    assert cost.passes_of_one == [11, 5] and not cost.as_published


def test_plain_loops_make_the_passes_that_they_are_timed_for(case, monkeypatch):
    plain = PlainLoops(case, ARGS)
    plain.seconds(np.arange(6))
    forward, pgd = (attack.passes for attack in plain.attacks)
    assert forward.forward == pgd.forward == pgd.backward == [6] * 20 and not forward.backward
    for attack, seconds in zip(plain.attacks, (12.0, 48.0)):
        monkeypatch.setattr(attack, 'run', lambda rows, seconds=seconds: (None, seconds))
    assert plain.seconds(np.arange(6)) == pytest.approx([0.1, 0.3])


DIGITS = ['--arch', 'CifarResNet', '-d', '8', '--num-classes', '10', '--batch', '16']


@pytest.mark.slow
def test_the_program(sess, load_rule_weights, tmp_path, monkeypatch, capsys):
    model = make_network(*DIGITS)
    with TowerContext('', is_training=False):
        model.get_logits(tf.zeros([1, 32, 32, 3]))
    load_rule_weights(sess)
    monkeypatch.chdir(tmp_path)
    np.savez('net.npz', **{v.op.name: sess.run(v) for v in tf.global_variables()})
    monkeypatch.setattr(ensemble_speed, 'make_evaluation_attacker',
                        lambda settings: Ensemble(settings.evaluation_attack.kind, settings.evaluation_attack.norm,
                                                  settings.evaluation_attack.epsilon, short(epsilon=0.5)[::3]))
    with tf.Graph().as_default():
        ensemble_speed.run(DIGITS + ['--load', 'net.npz', '--images', '60', '--json', 'speed.json'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('autoattack, net.npz, epsilon 4, batches of 16, 60 images')
    table = [line.split(' | ') for line in lines if line.startswith('| ')]
    assert len({len(cells) for cells in table}) == 1 and [cells[0] for cells in table[1:]] == ['| apgd-ce', '| square']
    assert lines[-1] == 'No more passes than the published code'
    with open('speed.json') as f:
        attacks = json.load(f)['attacks']
    assert [str(a['images']) for a in attacks] == [cells[1] for cells in table[1:]]
    assert attacks[0]['published_of_one'] == [6, 5] and attacks[1]['published_of_one'] == [22, 0]


@pytest.mark.parametrize('flags, message', [
    (['--attack', 'pgd'], 'measures autoattack alone'), (['--json', 'nowhere/speed.json'], 'nowhere/speed.json'),
    (['--autoattack-version', 'standart'], "'standart' is neither"), (['--attack-iter', '10'], 'has no --attack-iter')])
def test_mistakes_end_with_one_line(graph, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    np.savez('net.npz', **{'fc/b': np.zeros(10, np.float32)})
    with pytest.raises(SystemExit) as ended:
        ensemble_speed.run(DIGITS + ['--load', 'net.npz'] + flags)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and message in error
