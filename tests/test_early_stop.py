"""Stopping at an image's first success, against the same attack with 0, 1, 2, ... steps on a network known in NumPy."""
import csv
import functools
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import main
import nets
from attack_passes import Passes
from attacks.pgd import MomentumAttacker, PGDAttacker
from evaluation.verdicts import Verdicts, attack_success
from image_folders import make_noise_folder
from seeds import EVALUATION_STREAM, image_seeds
from small_runs import read_json

CLASSES, COUNT, SIDE, STEPS = 7, 40, 8, 6
RANDOM = np.random.default_rng(2)
WEIGHTS = RANDOM.standard_normal([3 * SIDE ** 2, CLASSES]).astype(np.float32)
IMAGES = RANDOM.uniform(-1, 1, [COUNT, SIDE, SIDE, 3]).astype(np.float32)
ROUNDING = 5e-4  # which the waves raise with every step; a step moves elements by 1e-2 and more


def waves(logits, sin):
    """As long as a step or two, so that attacks leave points where they have succeeded."""
    return logits + 4 * sin(2 * logits)


def wavy_logits(image):
    return waves(tf.matmul(tf.reshape(image, [-1, 3 * SIDE ** 2]), tf.constant(WEIGHTS)), tf.sin)


def predictions(image):
    return waves(image.astype(np.float64).reshape(len(image), -1).dot(WEIGHTS), np.sin).argmax(axis=1)


LABELS = predictions(IMAGES)
LABELS[::9] = (LABELS[::9] + 1) % CLASSES

LENGTHS = {'Linf': (4.0, 2.0), 'L2': (50.0, 20.0), 'L1': (300.0, 100.0)}  # epsilon and step, in pixel levels
EVERY_KIND = pytest.mark.parametrize('kind', [PGDAttacker, MomentumAttacker])
EVERY_AIM = pytest.mark.parametrize('targeted', [False, True])


def make(kind, norm, targeted, num_iter=STEPS, step_size=None, early_stop=False):
    epsilon, step = LENGTHS[norm]
    return kind(num_iter, epsilon, step_size or step, norm=norm, targeted=targeted, num_classes=CLASSES,
                enlarge_small_steps=False, early_stop=early_stop)


def follow_each(sess, attackers, network=wavy_logits, rows=slice(None)):
    """For each attacker the attacked images of ``rows``, their targets, and whether a success was left."""
    image = tf.placeholder(tf.float32, [None, SIDE, SIDE, 3])
    seeds = image_seeds(0, EVALUATION_STREAM, tf.constant(np.arange(COUNT)[rows]))
    found = [attacker.attack(image, tf.constant(LABELS[rows], tf.int32), network, seeds) for attacker in attackers]
    return sess.run(found, {image: IMAGES[rows]})


def follow(sess, attacker, *args, **kwargs):
    found, = follow_each(sess, [attacker], *args, **kwargs)
    return found


@functools.lru_cache(maxsize=None)
def way_of(kind, norm, targeted):
    """The points that an attack passes [STEPS + 1, COUNT, ...], and where it has succeeded, bool [STEPS + 1, COUNT]."""
    attackers = [make(kind, norm, targeted, 1, step_size=1e-9)] + [make(kind, norm, targeted, k)
                                                                   for k in range(1, STEPS + 1)]
    with tf.Graph().as_default(), tf.Session() as sess:
        way, targets, _ = zip(*follow_each(sess, attackers))
    found = np.array([predictions(x) for x in way])
    return np.array(way), found == targets[0] if targeted else found != LABELS


@EVERY_KIND
@EVERY_AIM
@pytest.mark.parametrize('norm', ['Linf', *(pytest.param(norm, marks=pytest.mark.slow) for norm in ('L2', 'L1'))])
def test_an_image_stays_where_the_attack_first_succeeds_and_costs_no_more_passes(sess, kind, norm, targeted):
    way, won = way_of(kind, norm, targeted)
    ever = won.any(axis=0)
    last = np.where(ever, won.argmax(axis=0), STEPS)  # the number of the point where an image is to stay
    assert {0, STEPS} < set(last) and not ever.all()
    passes = Passes(wavy_logits)
    adv, _, left_success = follow(sess, make(kind, norm, targeted, early_stop=True), passes.get_logits)
    np.testing.assert_allclose(adv, way[last, np.arange(COUNT)], atol=ROUNDING)
    assert not left_success.any()
    # Each pass is on the images that have not succeeded before it.
    assert passes.forward == passes.backward == [(last >= k).sum() for k in range(STEPS)]
    assert sum(passes.forward) < COUNT * STEPS


@EVERY_KIND
@EVERY_AIM
def test_without_it_the_attack_takes_all_steps_and_says_which_successes_it_left(sess, kind, targeted):
    way, won = way_of(kind, 'Linf', targeted)
    passes = Passes(wavy_logits)
    adv, _, left_success = follow(sess, make(kind, 'Linf', targeted), passes.get_logits)
    assert passes.forward == passes.backward == [COUNT] * STEPS
    np.testing.assert_allclose(adv, way[-1], atol=ROUNDING)
    assert np.array_equal(left_success, won[:-1].any(axis=0))
    assert (left_success & ~won[-1]).any()


@EVERY_KIND
@pytest.mark.parametrize('size', [1, 7])
def test_an_image_does_not_depend_on_the_others_of_its_batch(sess, kind, size):
    whole = follow(sess, make(kind, 'Linf', True, early_stop=True))
    rows = np.array([3, 38, 9, 0, 20, 21, 22])[:size]
    part = follow(sess, make(kind, 'Linf', True, early_stop=True), rows=rows)
    np.testing.assert_allclose(part[0], whole[0][rows], atol=ROUNDING)
    assert np.array_equal(part[1], whole[1][rows])


def test_when_no_image_stands_there_are_no_more_passes(sess):
    passes = Passes(lambda image: tf.fill([tf.shape(image)[0], CLASSES], np.nan) * tf.reduce_sum(image))
    adv, _, _ = follow(sess, make(PGDAttacker, 'Linf', False, early_stop=True), passes.get_logits)
    assert passes.forward == [COUNT]  # logits that are not finite are no right answer
    np.testing.assert_allclose(adv, follow(sess, make(PGDAttacker, 'Linf', False, 1, step_size=1e-9))[0], atol=1e-7)


# Evaluations

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_noise_folder(tmp_path_factory.mktemp('images'), {'val': 200}, 'abcdefg')


@pytest.fixture
def evaluate(data, tmp_path, monkeypatch):
    """function(flags): results and table of an evaluation of the network above."""
    tf.disable_v2_behavior()
    tf.enable_resource_variables()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nets.CifarResNetModel, 'network', lambda _, image: wavy_logits(image) + tf.get_variable(
        'linear/b', [CLASSES]))
    np.savez('weights.npz', **{'linear/b': np.zeros(CLASSES, np.float32)})

    def run(*flags):
        with tf.Graph().as_default():
            main.main(['--arch', 'CifarResNet', '-d', '8', '--input-size', str(SIDE), '--num-classes', str(CLASSES),
                       '--eval', '--load', 'weights.npz', '--data', data, '--augmentation', 'cifar', '--results-dir',
                       'out', '--attack-iter', '6', '--attack-epsilon', '4', '--attack-step-size', '2', *flags])
        with open(os.path.join('out', 'per_example.csv'), newline='') as f:
            return read_json(os.path.join('out', 'results.json')), list(csv.DictReader(f))
    return run


@pytest.mark.parametrize('flags', [['--untargeted'], ['--targeted'], ['--attack', 'momentum'],
                                   ['--attack-target', 'least-likely']])
def test_both_verdicts_of_a_whole_evaluation_and_the_one_of_a_stopped_one(evaluate, capsys, flags):
    whole, rows = evaluate(*flags)
    printed = capsys.readouterr().out.splitlines()
    assert whole['verdict'] == 'last step' and whole['attack']['early_stop'] is False
    assert whole['attack_success_rate'] < whole['attack_success_rate_at_any_step']
    assert 'Attack Success Rate: {}'.format(whole['attack_success_rate']) in printed
    any_step = 'Attack Success Rate At Any Step: {}'.format(whole['attack_success_rate_at_any_step'])
    assert any_step in printed

    stopped, stopped_rows = evaluate('--early-stop', *flags)
    printed = capsys.readouterr().out.splitlines()
    assert stopped['verdict'] == 'success at any step' and stopped['attack']['early_stop'] is True
    assert stopped['attacks'][0]['early_stop'] is True and stopped['args']['early_stop'] is True
    for name in ('attack_success_rate', 'attack_success_rate_at_any_step'):
        assert stopped[name] == whole['attack_success_rate_at_any_step']
        assert stopped[name + '_95'] == whole['attack_success_rate_at_any_step_95']
    assert stopped['clean'] == whole['clean'] and stopped['attack_success_of'] == whole['attack_success_of']
    # None of the lines has the name of a figure of the last step.
    assert [line.split(':')[0] for line in printed] == [
        'Clean Top1 Error', 'Clean Top5 Error', 'Top1 Error When Stopped', 'Attack Success Rate At Any Step',
        'Top5 Error When Stopped']
    assert any_step in printed
    won = [row['adv_pred'] == row['target'] if row['target'] != '-1' else
           row['clean_pred'] == row['label'] != row['adv_pred'] for row in stopped_rows]
    assert sum(won) / stopped['attack_success_of'] == stopped['attack_success_rate']
    assert [row['target'] for row in stopped_rows] == [row['target'] for row in rows]


def test_successes_at_any_step_are_counted_among_the_images_that_count():
    def verdicts(prediction, any_step, target=(-1, -1, -1, -1)):
        return Verdicts(*map(np.array, (range(4), [0, 1, 2, 3], prediction, [0] * 4, target, any_step)))
    clean = verdicts([0, 1, 2, 0], [0, 0, 0, 1])
    assert attack_success(clean, verdicts([5, 1, 2, 0], [1, 1, 0, 1])) == (1, 3)
    assert attack_success(clean, verdicts([5, 1, 2, 0], [1, 1, 0, 1]), any_step=True) == (2, 3)
    targeted = verdicts([5, 1, 2, 0], [1, 0, 1, 1], target=[5, 2, 3, 1])
    assert attack_success(clean, targeted) == (1, 4)
    assert attack_success(clean, targeted, any_step=True) == (3, 4)
