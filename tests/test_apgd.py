"""The training's APGD against the published program's points, and as an attacker among the others."""
import json

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import tiny_cnn
from attack_passes import Passes
from attacks.apgd import APGD
from attacks.attacker import Lengths
from attacks.autoattack.geometry import NORMS
from attacks.registry import KINDS
from attacks.threat import BEST_POINT, NO_TARGET
from settings.attack import Attack

EPSILON = {'Linf': 8.0, 'L2': 0.5 * 255, 'L1': 5.0 * 255}  # the fixture's, in pixel levels


@pytest.fixture(scope='module')
def fixture(fixture_path):
    """The published program's results (tests/fixtures/README.md), and of the same images the labels."""
    numbers = dict(np.load(fixture_path('rat/apgd_train.npz')))
    _, labels = tiny_cnn.images()
    return dict(numbers, hard=labels[numbers['index']], soft=numbers['soft_labels'])


def attacked(sess, attacker, fixture, truth, network=tiny_cnn.get_logits, **options):
    """What the attack gives for the fixture's images, in [0, 1], and where it had succeeded."""
    image = tf.placeholder(tf.float32, [None, 3, 16, 16])
    found = attacker.attack(image, tf.constant(fixture[truth]), network, **options)
    adv, target, succeeded = sess.run(list(found), {image: 2 * fixture['inputs'] - 1})
    assert (target == NO_TARGET).all()
    return (adv + 1) / 2, succeeded


@pytest.mark.parametrize('truth', ['soft', 'hard'])
@pytest.mark.parametrize('num_iter', [1, 2, 10])
@pytest.mark.parametrize('norm', NORMS)
def test_its_points_are_the_published_program_s(sess, fixture, norm, num_iter, truth):
    """In the unit scale: in [-1, 1] pixels are rounded otherwise, and in L1 what that changes counts as changed."""
    assert ((fixture['inputs'] < 0) | (fixture['inputs'] > 1)).any()
    attacker, image = APGD(num_iter, EPSILON[norm], norm), tf.placeholder(tf.float32, [None, 768])
    found = attacker.run(image, tf.constant(fixture[truth]), lambda point: tiny_cnn.get_logits(
        tf.reshape(2 * point - 1, [-1, 3, 16, 16])), attacker.lengths)
    best, loss, _, right = sess.run(list(found), {image: fixture['inputs'].reshape(-1, 768)})
    run = '{}_{}it_{}/'.format(norm, num_iter, truth)
    assert np.array_equal(right, fixture[run + 'acc'].astype(bool))
    np.testing.assert_allclose(loss, fixture[run + 'loss_best'], rtol=2e-6)
    if run + 'x_best' in fixture:
        far = np.abs(best - fixture[run + 'x_best'].reshape(-1, 768)).max(axis=1)
        # After ten steps in L2 one image has carried a rounding error on.
        assert (far > 1e-6).sum() <= (1 if (norm, num_iter) == ('L2', 10) else 0) and far.max() < 1e-4


@pytest.mark.parametrize('num_iter', [1, 2])
@pytest.mark.parametrize('norm', NORMS)
def test_images_in_minus_one_to_one_go_to_the_same_points(sess, fixture, norm, num_iter):
    point, _ = attacked(sess, APGD(num_iter, EPSILON[norm], norm), fixture, 'soft')
    far = np.abs(point - fixture['{}_{}it_soft/x_best'.format(norm, num_iter)]) > 1e-6
    assert far.any(axis=(1, 2, 3)).sum() <= (1 if (norm, num_iter) == ('L1', 2) else 0)


@pytest.mark.parametrize('norm', NORMS)
def test_two_steps_are_three_forward_and_two_backward_passes(sess, fixture, norm):
    passes, images = Passes(tiny_cnn.get_logits), len(fixture['index'])
    attacked(sess, APGD(2, EPSILON[norm], norm), fixture, 'soft', passes.get_logits)
    assert (passes.forward, passes.backward) == ([images] * 3, [images] * 2)


def test_the_steps_of_the_two_step_attack_are_those_of_its_formula(sess, fixture):
    """In float64 but for the network's gradients."""
    given = tf.placeholder(tf.float32, [None, 3, 16, 16])
    loss = tf.nn.softmax_cross_entropy_with_logits_v2(labels=tf.constant(fixture['soft']),
                                                      logits=tiny_cnn.get_logits(2 * given - 1))
    slope, = tf.gradients(loss, given)
    epsilon, x = 8 / 255, fixture['inputs'].astype(np.float64)

    def project(v):
        return np.clip(np.clip(v, x - epsilon, x + epsilon), 0, 1)

    def climbed(point):
        return project(point + 2 * epsilon * np.sign(sess.run(slope, {given: point})))
    x0 = np.clip(x, 0, 1)
    x1 = climbed(x0)
    x2 = project(x1 + 0.75 * (climbed(x1) - x1) + 0.25 * (x1 - x0))
    points = np.stack([x0, x1, x2])
    best = np.argmax([sess.run(loss, {given: point}) for point in points], axis=0)
    found, _ = attacked(sess, APGD(2, 8.0), fixture, 'soft')
    np.testing.assert_allclose(found, points[best, np.arange(len(best))], atol=1e-6)


@pytest.mark.parametrize('norm', NORMS)
def test_its_lengths_may_be_fed(sess, fixture, norm):
    lengths, image = Lengths.placeholders(), tf.placeholder(tf.float32, [None, 3, 16, 16])
    found = APGD(30, 1.0, norm).attack(image, tf.constant(fixture['soft']), tiny_cnn.get_logits, lengths=lengths).image
    for attacker in (APGD(2, EPSILON[norm], norm), APGD(5, EPSILON[norm] / 2, norm)):
        expected, _ = attacked(sess, attacker, fixture, 'soft')
        fed = sess.run(found, {image: 2 * fixture['inputs'] - 1, **lengths.feed(attacker.lengths)})
        far = (np.abs((fed + 1) / 2 - expected) > 1e-5).any(axis=(1, 2, 3))
        assert far.sum() <= (1 if norm == 'L1' else 0)  # where a rounding error counts as a changed element
    assert APGD(2, 3.0, norm).graph_key == APGD(10, 4.0, norm).graph_key != APGD(2, 3.0, norm, xla=True).graph_key


@pytest.mark.parametrize('norm', ['Linf', *(pytest.param(norm, marks=pytest.mark.slow) for norm in ('L2', 'L1'))])
def test_xla_compiles_its_passes(sess, fixture, norm):
    plain, compiled = (attacked(sess, APGD(2, EPSILON[norm], norm, xla), fixture, 'soft')[0] for xla in (False, True))
    far = (np.abs(compiled - plain) > 1e-5).any(axis=(1, 2, 3))
    assert far.sum() <= 1  # a gradient of nearly 0 has the sign of its rounding error


def test_a_network_without_a_gradient_leaves_the_image_cut_to_valid_pixels(sess, fixture):
    def constant_logits(image):
        return 0.0 * tiny_cnn.get_logits(image)
    found, succeeded = attacked(sess, APGD(3, 8.0), fixture, 'soft', constant_logits)
    np.testing.assert_allclose(found, np.clip(fixture['inputs'], 0, 1), atol=1e-7)
    assert np.array_equal(succeeded, fixture['soft'].argmax(axis=1) != 0)


def test_logits_that_are_no_numbers_do_not_spoil_the_image(sess, fixture):
    def broken_logits(image):
        return np.nan * tiny_cnn.get_logits(image)
    found, succeeded = attacked(sess, APGD(2, 8.0), fixture, 'hard', broken_logits)
    assert np.isfinite(found).all() and succeeded.all()  # nothing right is predicted


def test_it_is_a_kind_of_attack_and_describes_itself(sess):
    attacker = KINDS['apgd'].make(Attack(num_iter=2, epsilon=4.0, step_size=8.0, targeted=False, norm='L2'), 10, 0)
    assert attacker == APGD(2, 4.0, 'L2') and attacker.verdict == BEST_POINT
    described = attacker.describe()
    assert json.loads(json.dumps(described)) == described
    assert described == {'name': 'APGD-2-L2', 'norm': 'L2', 'epsilon': 4.0, 'num_iter': 2, 'targeted': False,
                         'target': 'none', 'random_start': False}
    assert KINDS['apgd'].step_size('L1', 2, 4.0, 1.0) == 4.0 and KINDS['apgd'].step_size('Linf', 2, 4.0, 1.0) == 8.0


@pytest.mark.parametrize('options, message', [
    (dict(num_iter=0, epsilon=4.0), 'num_iter must be a whole number above 0'),
    (dict(num_iter=2, epsilon=0.0), 'epsilon must be'), (dict(num_iter=2, epsilon=4.0, norm='L3'), 'norm must be')])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        APGD(**options)
