"""Random numbers of many pairs of seeds at once are those of TensorFlow's own op of each pair."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import draws
from attacks.pgd import PGDAttacker
from seeds import TRAINING_STREAM, image_seeds
from smooth_activations import can_compile, tensorflow_ops_only

SEEDS = np.array([[0, 0], [5 << 24, 3], [(1 << 62) + 7, (1 << 40) + 1], [-1, -(1 << 63)]])
SHAPES = [[], [1], [3], [4], [7, 5, 3]]


def both(function):
    """What ``function()`` builds, one image after another and at once."""
    assert can_compile()
    with tf.Graph().as_default(), tf.Session() as session:
        one_by_one = function()
        with tensorflow_ops_only():
            at_once = function()
        return session.run([one_by_one, at_once])


@pytest.mark.parametrize('shape', SHAPES)
def test_uniform_numbers_are_those_of_the_op_bit_for_bit(shape):
    with tf.Graph().as_default(), tf.Session() as session:
        expected = session.run([tf.random.stateless_uniform(shape, seed, -0.3, 0.8) for seed in SEEDS])
    for found in both(lambda: draws.uniform(tf.constant(SEEDS), shape, -0.3, 0.8)):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('shape', SHAPES)
def test_normal_numbers_are_those_of_the_op(shape):
    with tf.Graph().as_default(), tf.Session() as session:
        expected = session.run([tf.random.stateless_normal(shape, seed) for seed in SEEDS])
    for found in both(lambda: draws.normal(tf.constant(SEEDS), shape)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_is_not_wanted_is_nought():
    wanted = [True, False, False, True]
    for found, all_of_them in zip(both(lambda: draws.normal(tf.constant(SEEDS), [3, 2], tf.constant(wanted))),
                                  both(lambda: draws.normal(tf.constant(SEEDS), [3, 2]))):
        np.testing.assert_array_equal(found, all_of_them * np.reshape(wanted, [4, 1, 1]))


def test_many_numbers_of_many_images_are_uniform():
    def drawn():
        return draws.uniform(image_seeds(1, 2, tf.range(50)), tf.constant([32, 32, 3]))
    one_by_one, at_once = both(drawn)
    np.testing.assert_array_equal(one_by_one, at_once)
    # 153,600 numbers: of a mean's five deviations, and of a tenth's.
    assert at_once.min() >= 0 and at_once.max() < 1 and abs(at_once.mean() - 0.5) < 5 * 12 ** -0.5 / 153600 ** 0.5
    shares = np.histogram(at_once, 10, (0, 1))[0] / at_once.size
    assert np.abs(shares - 0.1).max() < 5 * (0.09 / 153600) ** 0.5
    assert len({image.tobytes() for image in at_once}) == 50


def test_streams_of_an_image_are_folded_in_as_by_the_op():
    with tf.Graph().as_default(), tf.Session() as session:
        expected = session.run([tf.random.experimental.stateless_fold_in(
            tf.constant(seed), tf.constant(1234567890123, tf.int64)) for seed in SEEDS])
    for found in both(lambda: draws.fold_in(tf.constant(SEEDS), tf.constant(1234567890123, tf.int64))):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('norm', ['Linf', 'L2', 'L1'])
def test_attacks_begin_where_they_do_on_a_cpu_and_without_a_loop_over_images(norm):
    image = np.random.RandomState(0).uniform(-1, 1, [4, 6, 6, 3]).astype(np.float32)
    attacker = PGDAttacker(1, 8.0, 1.0, norm=norm, prob_start_from_clean=0.5)

    def start():
        seeds = image_seeds(3, TRAINING_STREAM, tf.range(4))
        return attacker.attack(tf.constant(image), tf.zeros([4], tf.int32),
                               lambda x: tf.reduce_sum(x, axis=[1, 2]), seeds=seeds).image
    np.testing.assert_allclose(*both(start), rtol=1e-5, atol=1e-6)
    with tf.Graph().as_default() as graph, tensorflow_ops_only():
        draws.uniform(tf.constant(SEEDS), [3])
        assert not any('While' in op.type or 'Enter' in op.type for op in graph.get_operations())
