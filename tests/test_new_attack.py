"""A new attack is one entry of a table: FGSM with momentum on soft labels, made here of parts, then used everywhere."""
import csv
import dataclasses
import os

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy.special import softmax

import commands.train
import main
import nets
from attacks.autoattack.square import SquareAttacker
from attacks.ensemble import Ensemble
from attacks.parts import Momentum
from attacks.pgd import FGSMAttacker, PGDAttacker, compose
from attacks.registry import KINDS, Kind, options_of
from attacks.threat import PIXEL, cross_entropy, distribution_of
from evaluation.passes import ROW, EvaluationTower, Passes
from image_folders import make_noise_folder
from ranks.launched import Ranks
from settings.attack import Attack
from settings.resolve import resolve
from small_runs import read_json
from test_main import refusal

# ----- the attack, all of it -----


def soft_loss(logits, truth, target):
    """The cross entropy with a truth that gives a part to all classes alike."""
    classes = int(logits.shape[1])
    return cross_entropy(logits, 0.7 * distribution_of(truth, classes) + 0.3 / classes)


def make(attack, num_classes, seed):
    return compose('soft-{}', attack.num_iter, attack.epsilon, attack.step_size, loss=soft_loss, memory=Momentum(0.5),
                   **options_of(attack, num_classes, seed))


KIND = Kind(make, lambda norm, num_iter, epsilon, linf: epsilon / num_iter, 'FGSM with momentum on soft labels',
            without=('version', 'targeted', 'target'), values={'targeted': False})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(KINDS, 'soft', KIND)
# -----------------------------------


CLASSES, SIDE = 2, 8
RANDOM = np.random.default_rng(3)
WEIGHTS = 0.1 * RANDOM.standard_normal([3 * SIDE ** 2, CLASSES]).astype(np.float32)


def numpy_attack(image, truth, epsilon, step, num_iter):
    """On ``image`` float64 [N,...] in [-1, 1], with the network of ``WEIGHTS``; ``truth``: [N, CLASSES]."""
    adv, total = image, 0
    for _ in range(num_iter):
        wrong = softmax(adv.reshape(len(adv), -1) @ WEIGHTS, axis=1) - (0.7 * truth + 0.3 / CLASSES)
        gradient = (wrong @ WEIGHTS.T).reshape(adv.shape)
        total = 0.5 * total + gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        adv = np.clip(adv + step * PIXEL * np.sign(total), image - epsilon * PIXEL, image + epsilon * PIXEL).clip(-1, 1)
    return adv


def logits_of(image):
    return tf.matmul(tf.reshape(image, [-1, 3 * SIDE ** 2]), tf.constant(WEIGHTS))


IMAGES = RANDOM.uniform(-1, 1, [6, SIDE, SIDE, 3]).astype(np.float32)
LABELS = np.array([0, 1, 0, 1, 1, 0], np.int32)
MIXED = RANDOM.dirichlet(np.ones(CLASSES), 6).astype(np.float32)


@pytest.mark.parametrize('truth', [LABELS, MIXED], ids=['labels', 'distributions'])
@pytest.mark.parametrize('num_iter, step', [(1, 6.0), (5, 2.0)])
def test_it_is_numpy_s_step_for_step(sess, truth, num_iter, step):
    attacker = make(Attack(num_iter=num_iter, epsilon=6.0, step_size=step, targeted=False), CLASSES, 0)
    adv = sess.run(attacker.attack(tf.constant(IMAGES), tf.constant(truth), logits_of).image)
    distribution = np.eye(CLASSES)[truth] if truth.ndim == 1 else truth
    np.testing.assert_allclose(adv, numpy_attack(IMAGES.astype(np.float64), distribution, 6.0, step, num_iter),
                               atol=1e-5)


# Asked for by name

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'train': 8, 'val': 40}, 'ab')


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Words of a network whose graph is a linear map and whose bias is a variable, 0 at first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nets.CifarResNetModel, 'network', lambda _, image: logits_of(image) + tf.get_variable(
        'linear/b', [CLASSES], initializer=tf.zeros_initializer()))
    np.savez('weights.npz', **{'linear/b': np.zeros(CLASSES, np.float32)})
    return ['--arch', 'CifarResNet', '-d', '8', '--input-size', str(SIDE), '--num-classes', str(CLASSES), '--batch',
            '8', '--data-format', 'NHWC', '--augmentation', 'cifar']


def test_eval_judges_with_it_as_numpy_does(graph, network, data):
    main.main([*network, '--eval', '--load', 'weights.npz', '--data', data, '--results-dir', 'out', '--attack', 'soft',
               '--attack-iter', '4', '--attack-epsilon', '2'])
    results = read_json(os.path.join('out', 'results.json'))
    assert results['attack'] == {
        'name': 'soft-4', 'norm': 'Linf', 'epsilon': 2.0, 'step_size': 0.5, 'num_iter': 4, 'targeted': False,
        'target': 'none', 'random_start': False, 'prob_start_from_clean': 0.0, 'early_stop': False, 'decay': 0.5}
    with open(os.path.join('out', 'per_example.csv'), newline='') as f:
        rows = list(csv.DictReader(f))
    image = np.array([cv2.imread(row['file']) for row in rows]) * PIXEL - 1
    truth = np.array([int(row['label']) for row in rows])
    adv = numpy_attack(image, np.eye(CLASSES)[truth], 2.0, 0.5, 4)
    for found, column in (image, 'clean_pred'), (adv, 'adv_pred'):
        predicted = (found.reshape(len(found), -1) @ WEIGHTS).argmax(axis=1)
        assert [row[column] for row in rows] == [str(label) for label in predicted]
    assert results['adversarial']['top1_correct'] == np.sum(predicted == truth) < results['clean']['top1_correct']


def test_the_command_line_knows_it(network, data, capsys):
    with pytest.raises(SystemExit):
        main.main(['--help-all'])
    shown = ' '.join(capsys.readouterr().out.split())
    assert '--attack {pgd,fgsm,momentum,apgd,autoattack,soft}' in shown
    assert '; soft: FGSM with momentum on soft labels (default: pgd)' in shown
    asked = [*network, '--eval', '--load', 'weights.npz', '--data', data, '--attack', 'soft']
    for more, message in ((['--autoattack-version', 'rand'], '--attack soft has no --autoattack-version'),
                          (['--targeted'], '--attack soft has no --targeted'),
                          (['--attack-iter', '0'], '--attack soft without steps')):
        assert message in refusal(capsys, main.parse_args, asked + more)
    args = main.parse_args(asked + ['--norm', 'L2', '--attack-epsilon', '30', '--early-stop'])
    assert (args.attack_iter, args.attack_step_size) == (10, 3.0)


# In training: its settings say `soft` where those of every command today say `pgd`

def test_a_training_attacks_with_it_and_is_watched_by_it(graph, network, data, monkeypatch, capsys):
    def with_it(args):
        settings = resolve(args)
        attacks = {name: dataclasses.replace(getattr(settings, name), kind='soft')
                   for name in ('training_attack', 'evaluation_attack')}
        return dataclasses.replace(settings, **attacks)
    monkeypatch.setattr(commands.train, 'resolve', with_it)
    made = []
    monkeypatch.setitem(KINDS, 'soft', KIND._replace(make=lambda *args: made.append(make(*args)) or made[-1]))
    main.main([*network, '--data', data, '--logdir', 'a/run', '--epochs', '1', '--attack-iter', '2', '--base-lr', '0',
               '--eval-attack-iter', '4', '--more-eval-attack-iter', '5', '--attack-epsilon', '2',
               '--attack-step-size', '1', '--eval-attack-step-size', '0.5'])
    assert sorted(attacker.name for attacker in made) == ['soft-2', 'soft-4', 'soft-5']
    statistics, = read_json('a/run/stats.json')
    image, truth = np.empty([40, SIDE, SIDE, 3]), np.arange(40) % 2
    for number, label in enumerate(truth):
        image[number] = cv2.imread(os.path.join(data, 'val', 'ab'[label], '{:02d}.png'.format(number))) * PIXEL - 1
    for steps in 4, 5:
        adv = numpy_attack(image, np.eye(CLASSES)[truth], 2.0, 0.5, steps)
        wrong = (adv.reshape(40, -1) @ WEIGHTS).argmax(axis=1) != truth
        assert statistics['eval-{}step-top1-error'.format(steps)] == pytest.approx(wrong.mean())


def test_attackers_of_all_kinds_watch_together_each_in_a_pass_of_its_kind(graph):
    class Model(nets.CifarResNetModel):
        def network(self, image):
            return logits_of(image)
    model = Model(main.parse_args(['--arch', 'CifarResNet', '-d', '8', '--input-size', str(SIDE), '--num-classes',
                                   str(CLASSES), '--data-format', 'NHWC', '--fake']))
    soft = [make(Attack(num_iter=k, epsilon=3.0, step_size=1.0, targeted=False), CLASSES, 0) for k in (2, 6)]
    pgd = [PGDAttacker(k, 3.0, 1.0, enlarge_small_steps=False) for k in (1, 6)]
    both = Ensemble('both', 'Linf', 3.0, [FGSMAttacker(1.0), PGDAttacker(3, 3.0, 1.0)])
    attackers = [soft[0], pgd[1], both, soft[1], pgd[0], SquareAttacker('Linf', 3.0, CLASSES, num_queries=20)]
    pixels = RANDOM.integers(0, 256, [60, SIDE, SIDE, 3]).astype(np.float32)
    label = (((pixels * PIXEL - 1).reshape(60, -1) @ WEIGHTS).argmax(axis=1)).astype(np.int32)
    batch = pixels, label, np.arange(60, dtype=np.int32)
    tower = EvaluationTower(model, [pgd[0], *attackers], Ranks())
    own = Passes(model, attackers)
    with tf.Session() as session:
        found = tower.run(session, [batch], attackers, False)
        expected = [own.judge(session, k, batch) for k in range(1 + len(attackers))]
    assert list(found) == ['clean', 'soft-2', 'PGD-6', 'both', 'soft-6', 'PGD-1', 'square']
    for verdicts, rows in zip(found.values(), expected):
        np.testing.assert_array_equal(verdicts.prediction, rows[:, ROW.index('prediction')])
    right = [verdicts.correct.sum() for verdicts in found.values()]
    assert right[0] == 60 and len(set(right)) > 4
