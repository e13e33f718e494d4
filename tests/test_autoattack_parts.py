"""AutoAttack's projections, losses and windows against the published code's numbers (tests/fixtures/README.md)."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import tiny_cnn
from attacks.autoattack import losses
from attacks.autoattack.geometry import NORMS, dual_length, length, move_to_plane, project_l1
from attacks.autoattack.square import Bumps, Grid, Stripes, bumps, window_share
from attacks.autoattack.streams import ImageStreams
from seeds import image_seeds


@pytest.fixture(scope='module')
def numbers():
    return tiny_cnn.load('projections_losses.npz')


@pytest.mark.parametrize('radius', [1, 5, 12])
def test_projection_to_the_l1_ball_and_the_box(sess, numbers, radius):
    image, move = numbers['l1ball/x'], numbers['l1ball/y']
    point = sess.run(project_l1(tf.constant(image), tf.constant(move), float(radius)))
    assert np.abs(point - (image + move + numbers['l1ball/delta_eps{}'.format(radius)])).max() < 1e-6
    assert np.abs(point - image).sum(axis=1).max() < radius + 1e-5
    assert point.min() > -1e-6 and point.max() < 1 + 1e-6


def test_projection_leaves_a_point_inside_where_it_is(sess):
    image = np.full([1, 48], 0.5, np.float32)
    move = tiny_cnn.uniform('inside', [1, 48]).astype(np.float32) / 48
    assert np.array_equal(sess.run(project_l1(tf.constant(image), tf.constant(move), 1.0)), image + move)


@pytest.mark.parametrize('norm', NORMS)
def test_shortest_move_to_a_plane_in_the_box(sess, numbers, norm):
    point, normal, offset = (numbers['hyper/' + key] for key in 'twb')
    excess = ((point * normal).sum(axis=1) - offset)[:, np.newaxis]
    move = sess.run(move_to_plane(tf.constant(point), tf.constant(normal), tf.constant(excess), norm))
    assert np.abs(move - numbers['hyper/' + norm.lower()]).max() < 2e-6


@pytest.mark.parametrize('norm', NORMS)
def test_a_large_image_reaches_the_plane_to_float32_accuracy(sess, norm):
    elements = 150528
    point = ((1 + tiny_cnn.uniform('point', [2, elements])) / 2).astype(np.float32)
    normal = (tiny_cnn.uniform('normal', [2, elements]) ** 3).astype(np.float32)
    excess = np.array([[300.0], [-3000.0]], np.float32)
    move = sess.run(move_to_plane(tf.constant(point), tf.constant(normal), tf.constant(excess), norm))
    assert np.allclose((move.astype(np.float64) * normal).sum(axis=1), -excess[:, 0], rtol=1e-4)
    assert (point + move).min() > -1e-6 and (point + move).max() < 1 + 1e-6


@pytest.mark.parametrize('norm, order, dual', [('Linf', np.inf, 1), ('L2', 2, 2), ('L1', 1, np.inf)])
def test_lengths(sess, norm, order, dual):
    x = tiny_cnn.uniform('length', [3, 7]).astype(np.float32)
    found = sess.run([length(tf.constant(x), norm), dual_length(tf.constant(x), norm)])
    for values, p in zip(found, (order, dual)):
        assert np.allclose(values[:, 0], np.linalg.norm(x, p, axis=1), rtol=1e-6)


@pytest.mark.parametrize('name', ['ce', 'dlr', 'dlr_targeted'])
def test_losses_and_their_gradients(sess, numbers, name):
    logits, label, target = (tf.constant(numbers['loss/' + key]) for key in ('logits', 'y', 'y_target'))
    loss = {'ce': lambda: losses.cross_entropy(logits, label), 'dlr': lambda: losses.dlr(logits, label),
            'dlr_targeted': lambda: losses.targeted_dlr(logits, label, target)}[name]()
    value, gradient = sess.run([loss, tf.gradients(loss, logits)[0]])
    assert np.allclose(value, numbers['loss/' + name], atol=1e-6)
    assert np.allclose(gradient, numbers['loss/' + name + '_grad'], atol=1e-6)


def test_dlr_has_exactly_no_gradient_where_the_label_comes_third(sess):
    logits = -np.sort(-tiny_cnn.uniform('logits', [200, 10]), axis=1).astype(np.float32)
    given = tf.placeholder(tf.float32, [None, 10])
    loss = losses.dlr(given, tf.fill(tf.shape(given)[:1], 2))
    value, gradient = sess.run([loss, tf.gradients(tf.reduce_sum(loss), given)[0]], {given: logits})
    assert np.all(value == 1) and not gradient.any()


@pytest.mark.parametrize('norm', ['L2', 'L1'])
@pytest.mark.parametrize('side', [2, 3, 5, 7, 9])
def test_bumps(numbers, norm, side):
    assert np.abs(bumps(side, norm) - numbers['square/eta_{}_{}'.format(norm, side)]).max() < 1e-6


def test_window_schedule(numbers):
    assert [window_share(query) for query in numbers['square/iters']] == pytest.approx(list(numbers['square/p']))


@pytest.mark.parametrize('side', [16, 224])
def test_window_sides(sess, numbers, side):
    sides = sess.run(Stripes('Linf', 0.1, Grid((3, side, side)), 5000)._sides)
    assert np.array_equal(sides[numbers['square/iters']], numbers['square/side_linf_{}'.format(side)])


@pytest.mark.parametrize('changes, norm', [(Stripes, 'Linf'), (Bumps, 'L2'), (Bumps, 'L1')])
def test_square_changes_both_layouts_alike(sess, changes, norm):
    image = ((1 + tiny_cnn.uniform('layout', [4, 3, 16, 20])) / 2).astype(np.float32)

    def changed(shape, image):
        grid = Grid(shape)
        rule = changes(norm, 0.3, grid, 20)
        start_numbers = (1 + tiny_cnn.uniform('start', [4, rule.start_rows, sum(rule.start_numbers)])) / 2
        query_numbers = (1 + tiny_cnn.uniform('query', [4, sum(rule.query_numbers)])) / 2
        best = rule.start(tf.constant(image), tf.constant(start_numbers, tf.float32))
        return sess.run([best, rule.propose(tf.constant(image), best, tf.constant(15),
                                            tf.constant(query_numbers, tf.float32))])
    for first, last in zip(changed((3, 16, 20), image), changed((16, 20, 3), image.transpose(0, 2, 3, 1))):
        assert np.abs(first - image).max() > 1e-3
        assert np.allclose(first.transpose(0, 2, 3, 1), last, atol=1e-6)


def test_bumps_need_room():
    with pytest.raises(ValueError, match='9 x 16 are too small for L2'):
        Bumps('L2', 0.1, Grid((9, 16, 3)), 5)


@pytest.mark.parametrize('kind', ['uniform', 'normal', 'rows'])
def test_images_have_numbers_of_their_own_wherever_they_are(sess, kind):
    streams, seeds = ImageStreams(), image_seeds(5, 1, tf.constant([7, 3, 9]))

    def numbers(seeds, stream):
        if kind == 'rows':
            draw = streams.rows(seeds, stream, 40, 20, 5)
            return tf.stack([draw(row, tf.range(tf.shape(seeds)[0])) for row in range(40)], axis=1)
        return getattr(streams, kind)(seeds, stream, [40, 25])
    whole, last, other = sess.run([numbers(seeds, 0), numbers(seeds[2:], 0), numbers(seeds, 1)])
    assert np.array_equal(whole[2:], last)
    flat = np.concatenate([whole, other]).reshape(6, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(6)).max() < 0.2
    mean, deviation = (0, 1) if kind == 'normal' else (0.5, 1 / np.sqrt(12))
    assert abs(flat.mean() - mean) < 0.05 and abs(flat.std() - deviation) < 0.05
