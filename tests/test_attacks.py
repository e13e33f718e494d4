"""Balls and attacks beside PGD in L-infinity, against NumPy on a linear map whose gradient is known."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy import optimize, stats
from scipy.special import softmax

from attacks import balls
from attacks.ensemble import Ensemble
from attacks.pgd import FGSMAttacker, MomentumAttacker, PGDAttacker
from attacks.registry import KINDS
from attacks.threat import NO_TARGET, PIXEL
from seeds import EVALUATION_STREAM, image_seeds

CLASSES, SHAPE = 7, (5, 4, 4, 3)
SIZE = int(np.prod(SHAPE[1:]))
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.standard_normal([SIZE, CLASSES])
IMAGE = np.clip(RANDOM.uniform(-1.3, 1.3, SHAPE), -1, 1).astype(np.float32)  # a part of them at the ends of the range
LABEL = np.array([0, 3, 6, 1, 1], np.int32)


def logits_of(image):
    return tf.matmul(tf.reshape(image, [-1, SIZE]), tf.constant(WEIGHTS, tf.float32))


def flat_logits(image):
    """A network without a slope: attacks stay where they started."""
    return tf.zeros([tf.shape(image)[0], CLASSES]) * tf.reduce_sum(image)


def gradient_at(x, label):
    """Of each image's cross entropy."""
    return ((softmax(x.reshape(len(x), -1) @ WEIGHTS, axis=1) - np.eye(CLASSES)[label]) @ WEIGHTS.T).reshape(x.shape)


def length(move, norm):
    """float [N]."""
    return np.linalg.norm(move.reshape(len(move), -1), {'Linf': np.inf, 'L2': 2, 'L1': 1}[norm], axis=1)


def column(values):
    return np.reshape(values, [-1, 1, 1, 1])


def shrink_to_l1(move, radius):
    """The nearest point of the L1 ball, its threshold found by bisection."""
    result = np.empty_like(move)
    for number, one in enumerate(move):
        def excess(threshold):
            return np.maximum(np.abs(one) - threshold, 0).sum() - radius
        threshold = optimize.bisect(excess, 0, np.abs(one).max(), xtol=1e-14) if excess(0) > 0 else 0
        result[number] = np.sign(one) * np.maximum(np.abs(one) - threshold, 0)
    return result


def project(point, norm, radius):
    move = np.clip(point, -1, 1) - IMAGE
    if norm == 'Linf':
        return IMAGE + np.clip(move, -radius, radius)
    if norm == 'L2':
        return IMAGE + move * np.minimum(1, radius / np.maximum(column(length(move, 'L2')), 1e-30))
    return IMAGE + shrink_to_l1(move, radius)


def steepest(gradient, x, norm):
    if norm == 'Linf':
        return np.sign(gradient)
    if norm == 'L2':
        return gradient / column(length(gradient, 'L2'))
    free = np.where((np.abs(x) < 1 - 1e-5) | (np.sign(x) != np.sign(gradient)), gradient, 0)
    moved = np.zeros_like(gradient)
    count = max(1, round(balls.L1_SHARE * SIZE))
    for number, one in enumerate(free.reshape(len(x), -1)):
        largest = np.argsort(-np.abs(one))[:count]
        moved[number].reshape(-1)[largest] = np.sign(one[largest]) / count
    return moved


def numpy_attack(start, label, norm, radius, step, num_iter, decay=None):
    x, total = start.astype(np.float64), 0
    for _ in range(num_iter):
        gradient = gradient_at(x, label)
        if decay is not None:
            total = gradient = decay * total + gradient / np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
        x = project(x + step * steepest(gradient, x, norm), norm, radius)
    return x


def run(sess, attacker, get_logits=logits_of, image=IMAGE, label=LABEL, seeds=None):
    return sess.run(attacker.attack(tf.constant(image), tf.constant(label), get_logits, seeds))[:2]


LENGTHS = {'Linf': (40.0, 12.0), 'L2': (300.0, 90.0), 'L1': (900.0, 300.0)}  # epsilon and step, in pixel levels
EVERY_NORM = pytest.mark.parametrize('norm', LENGTHS)


@EVERY_NORM
@pytest.mark.parametrize('share', [0.01, 0.2])
@pytest.mark.parametrize('num_iter', [1, 2, 9])
def test_pgd_is_numpy_s_step_for_step(sess, monkeypatch, norm, num_iter, share):
    monkeypatch.setattr(balls, 'L1_SHARE', share)
    epsilon, step = LENGTHS[norm]
    options = dict(norm=norm, num_classes=CLASSES, enlarge_small_steps=False)
    start, _ = run(sess, PGDAttacker(num_iter, epsilon, step, **options), flat_logits)
    adv, target = run(sess, PGDAttacker(num_iter, epsilon, step, **options))
    np.testing.assert_allclose(adv, numpy_attack(start, LABEL, norm, epsilon * PIXEL, step * PIXEL, num_iter),
                               atol=1e-5)
    assert (target == NO_TARGET).all() and not np.array_equal(start, IMAGE)


@EVERY_NORM
def test_fgsm_is_one_step_of_the_whole_radius_from_the_clean_image(sess, norm):
    epsilon = LENGTHS[norm][0]
    adv, _ = run(sess, FGSMAttacker(epsilon, norm=norm, num_classes=CLASSES))
    np.testing.assert_allclose(adv, numpy_attack(IMAGE, LABEL, norm, epsilon * PIXEL, epsilon * PIXEL, 1), atol=1e-5)


@EVERY_NORM
def test_momentum_adds_up_gradients_of_the_same_size(sess, norm):
    epsilon, step = LENGTHS[norm]
    adv, _ = run(sess, MomentumAttacker(6, epsilon, step, norm=norm, num_classes=CLASSES))
    np.testing.assert_allclose(adv, numpy_attack(IMAGE, LABEL, norm, epsilon * PIXEL, step * PIXEL, 6, decay=1.0),
                               atol=1e-5)


@EVERY_NORM
@pytest.mark.parametrize('targeted', [False, True])
def test_what_comes_out_is_a_valid_image_in_the_ball_and_uses_all_of_it(sess, norm, targeted):
    epsilon = {'Linf': 8.0, 'L2': 128.0, 'L1': 500.0}[norm]
    adv, _ = run(sess, PGDAttacker(20, epsilon, epsilon / 4, norm=norm, targeted=targeted, num_classes=CLASSES))
    reached = length(adv.astype(np.float64) - IMAGE, norm) / PIXEL
    assert np.abs(adv).max() <= 1
    assert reached.max() <= epsilon * (1 + 1e-5)
    np.testing.assert_allclose(reached, epsilon, rtol=1e-4)


@EVERY_NORM
def test_around_an_image_that_is_not_valid_the_result_is(sess, norm):
    adv, _ = run(sess, PGDAttacker(3, 8.0, 4.0, norm=norm, num_classes=CLASSES), image=1.2 * IMAGE)
    assert np.abs(adv).max() <= 1
    if norm != 'Linf':
        assert length(adv - np.clip(1.2 * IMAGE, -1, 1), norm).max() <= 8 * PIXEL * (1 + 1e-5)


def test_the_l1_projection_of_a_large_image_is_exact(sess):
    large = np.zeros([2, 300, 300, 3], np.float32)
    point = RANDOM.uniform(-1, 1, large.shape).astype(np.float32)
    got = sess.run(balls.L1Ball(tf.constant(large), 75.0).project(tf.constant(point)))
    np.testing.assert_allclose(length(got.astype(np.float64), 'L1'), 75, rtol=1e-4)
    np.testing.assert_allclose(got, shrink_to_l1(point.astype(np.float64), 75.0), atol=1e-6)


def test_the_l1_projection_of_a_large_image_whose_elements_move_alike_shares_the_radius(sess):
    point = np.full([1, 388, 388, 3], 0.3, np.float32)
    got = sess.run(balls.L1Ball(tf.zeros(point.shape), 75.0).project(tf.constant(point)))
    np.testing.assert_allclose(length(got.astype(np.float64), 'L1'), 75, rtol=1e-3)
    assert np.ptp(got) == 0


@EVERY_NORM
def test_attacks_do_without_float64_of_which_gpus_compute_little(graph, norm):
    for attacker in PGDAttacker(2, 8.0, 4.0, norm=norm), MomentumAttacker(2, 8.0, 4.0, norm=norm), FGSMAttacker(
            8.0, norm=norm):
        attacker.attack(tf.constant(IMAGE), tf.constant(LABEL), logits_of)
    assert not [op.name for op in graph.get_operations() for tensor in op.outputs if tensor.dtype == tf.float64]


def test_an_l1_step_passes_over_elements_that_cannot_move(sess):
    gradient = WEIGHTS[:, 0].astype(np.float32).reshape(1, 4, 4, 3)
    largest = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    for value in (0.0, np.sign(gradient[largest])):
        image = np.zeros_like(gradient)
        image[largest] = value
        ball = balls.L1Ball(tf.constant(image), 1.0)
        move = sess.run(ball.steepest(tf.constant(gradient), tf.constant(image)))
        assert (move[largest] == 0) == (value != 0) and np.abs(move).sum() == pytest.approx(1)


@EVERY_NORM
@pytest.mark.parametrize('attacker', [PGDAttacker, MomentumAttacker])
def test_where_there_is_no_gradient_the_attack_stays(sess, norm, attacker):
    adv, _ = run(sess, attacker(3, 8.0, 4.0, norm=norm, num_classes=CLASSES), flat_logits)
    assert np.isfinite(adv).all()
    assert np.array_equal(adv, IMAGE) == (attacker is MomentumAttacker)


def test_a_vanishing_gradient_still_has_a_direction(sess):
    ball = balls.L2Ball(tf.constant(IMAGE), 1.0)
    move = sess.run(ball.steepest(tf.constant(IMAGE * 1e-25), tf.constant(IMAGE)))
    np.testing.assert_allclose(length(move, 'L2'), 1, rtol=1e-5)


@pytest.mark.parametrize('norm', ['L2', 'L1'])
def test_random_starts_are_uniform_in_the_ball_and_of_the_image_s_own_seed(sess, norm):
    count, size = 1500, 12
    grey = np.zeros([count, 2, 2, 3], np.float32)
    attacker = PGDAttacker(1, 100.0, 100.0, norm=norm, num_classes=CLASSES)

    def start(positions):
        label = np.zeros(len(positions), np.int32)
        return run(sess, attacker, flat_logits, grey[:len(positions)], label,
                   image_seeds(0, EVALUATION_STREAM, positions))[0]
    found = start(np.arange(count))
    # The share of the ball's volume within a point's length is uniform.
    volume = (length(found.astype(np.float64), norm) / (100 * PIXEL)) ** size
    assert stats.kstest(volume, stats.uniform.cdf).pvalue > 0.01
    flat = found.reshape(count, size)
    assert np.abs(flat.mean(axis=0)).max() < 5 * flat.std() / np.sqrt(count)
    if norm == 'L2':  # the lengths of parts of a direction: Beta(k / 2, (n - k) / 2)
        share = (flat[:, :4] ** 2).sum(axis=1) / (flat ** 2).sum(axis=1)
        assert stats.kstest(share, stats.beta(2, 4).cdf).pvalue > 0.01
    else:  # Dirichlet: Beta(k, n - k)
        share = np.abs(flat[:, :4]).sum(axis=1) / np.abs(flat).sum(axis=1)
        assert stats.kstest(share, stats.beta(4, 8).cdf).pvalue > 0.01
    np.testing.assert_array_equal(start([7, 1200]), found[[7, 1200]])


def test_the_least_likely_target_is_the_wrong_label_with_the_lowest_score(sess):
    scores = IMAGE.reshape(5, -1) @ WEIGHTS
    label = LABEL.copy()
    label[2] = scores[2].argmin()  # its own label is the least likely: the next one is the target
    attacker = PGDAttacker(5, 8.0, 2.0, targeted=True, least_likely=True, num_classes=CLASSES)
    adv, target = run(sess, attacker, label=label)
    wrong = np.where(np.arange(CLASSES) == label[:, None], np.inf, scores)
    np.testing.assert_array_equal(target, wrong.argmin(axis=1))
    after = adv.reshape(5, -1) @ WEIGHTS
    rows = np.arange(5)
    assert target[2] == np.argsort(scores[2])[1]
    assert (softmax(after, axis=1)[rows, target] > softmax(scores, axis=1)[rows, target]).all()
    assert attacker.describe()['target'] == 'least-likely' and target.dtype == np.int32


@pytest.mark.parametrize('attacker, name', [
    (PGDAttacker(10, 4, 1), 'PGD-10'), (PGDAttacker(10, 128, 32, norm='L2'), 'PGD-10-L2'), (FGSMAttacker(4), 'FGSM'),
    (FGSMAttacker(500, norm='L1'), 'FGSM-L1'), (MomentumAttacker(5, 4, 1), 'MI-FGSM-5'),
    (MomentumAttacker(5, 128, 30, norm='L2'), 'MI-FGSM-5-L2')])
def test_an_attack_s_name_tells_its_norm(attacker, name):
    assert attacker.name == attacker.describe()['name'] == name
    assert attacker.describe()['norm'] == attacker.norm


@pytest.mark.parametrize('norm, epsilon', [('Linf', 256), ('L2', float('inf')), ('L1', 0), ('L3', 4)])
def test_a_radius_or_norm_that_is_none_is_refused(norm, epsilon):
    with pytest.raises(ValueError, match='FGSMAttacker: (epsilon|norm) must be'):
        FGSMAttacker(epsilon, norm=norm)


def test_an_ensemble_s_attacks_have_different_names():
    ensemble = Ensemble('two', 'Linf', 4.0, [PGDAttacker(1, 4, 4), FGSMAttacker(4)])
    assert ensemble.describe()['attacks'] == ['PGD-1', 'FGSM']
    with pytest.raises(ValueError, match='twice: FGSM, FGSM'):
        Ensemble('two', 'Linf', 4.0, [FGSMAttacker(4), FGSMAttacker(4)])


@pytest.mark.parametrize('attack, norm, expected', [
    ('pgd', 'Linf', 1.0), ('pgd', 'L2', 25.0), ('pgd', 'L1', 25.0), ('momentum', 'Linf', 10.0),
    ('momentum', 'L2', 10.0), ('fgsm', 'L2', 100.0)])
def test_default_steps(attack, norm, expected):
    assert KINDS[attack].step_size(norm, 10, 100.0, 1.0) == expected
