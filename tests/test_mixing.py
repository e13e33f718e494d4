"""The batch stage against the published program's examples, closed forms and the draws' distributions."""
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from scipy import stats

from seeds import TRAINING_STREAM, image_seeds
from training.step import erasing
from training.step.mixing import MixedBatch, as_it_is, make_stage, rectangle, smoothed, with_reversed

CLASSES, SIDE = 5, 32
LABEL = np.array([1, 3, 0, 2], np.int32)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, [4, SIDE, SIDE, 3]).astype(np.uint8)


@pytest.fixture(scope='module')
def facts(load_json):
    return load_json('rat/training.json')


# Against the published program's numbers

def test_mixed_labels_are_the_published_program_s(sess, facts):
    example = facts['target_example']
    truth = smoothed(tf.constant(example['target']), example['num_classes'], example['smoothing'])
    np.testing.assert_allclose(sess.run(with_reversed(truth, example['lam'])), example['result'], rtol=1e-6)


def test_cutmix_s_rectangles_are_the_published_program_s(sess, facts):
    for box in facts['cutmix_boxes']:
        # The middle of what becomes that whole number.
        x, y = ((box[name] + 0.5) / 224 for name in ('cx', 'cy'))
        left, right, top, bottom = sess.run(rectangle(tf.constant(box['lam']), x, y, 224))
        assert (left, right, top, bottom) == (box['xl'], box['xh'], box['yl'], box['yh'])
        assert 1 - (right - left) * (bottom - top) / 224 ** 2 == pytest.approx(box['corrected_lam'])


# One batch

class Batches:
    """What a stage makes of one batch in each of many steps: ``at(step)`` -> image, truth."""

    def __init__(self, sess, stage, images=IMAGES, label=LABEL, rank=0):
        self._sess, self._step = sess, tf.placeholder(tf.int64, [])
        position = self._step * len(label) + tf.range(len(label), dtype=tf.int64)
        seeds = image_seeds(3, TRAINING_STREAM + 2 * rank, position)
        self._made = stage(tf.constant(images), tf.constant(label), seeds)

    def at(self, step):
        return self._sess.run(self._made, {self._step: step})


def halves(label=LABEL, smoothing=0.1):
    """The labels' distributions and those of their partners."""
    truth = (1 - smoothing) * np.eye(CLASSES)[label] + smoothing / CLASSES
    return truth, truth[::-1]


def part_of(truth):
    """The part that every image of a batch has in its own truth."""
    own, others = halves()
    parts = (truth - others)[own != others] / (own - others)[own != others]
    assert np.ptp(parts) < 1e-5
    return parts.mean()


def test_mixup_has_one_part_for_pixels_and_labels_of_the_whole_batch(sess):
    batches = Batches(sess, MixedBatch(CLASSES, 0.1, mixup=0.8))
    parts = []
    for step in range(5):
        image, truth = batches.at(step)
        parts.append(part_of(truth))
        own = IMAGES.astype(np.float64)
        np.testing.assert_allclose(image, parts[-1] * own + (1 - parts[-1]) * own[::-1], atol=0.01)
        np.testing.assert_allclose(truth.sum(axis=1), 1, rtol=1e-6)
    assert len(set(parts)) == 5


def test_cutmix_has_one_rectangle_and_labels_by_its_area(sess):
    batches, places = Batches(sess, MixedBatch(CLASSES, 0.1, cutmix=1.0)), set()
    for step in range(20):
        image, truth = batches.at(step)
        replaced = (image != IMAGES).any(axis=(0, 3))
        np.testing.assert_array_equal(image[:, replaced], IMAGES[::-1][:, replaced])
        if replaced.any():
            rows, columns = np.flatnonzero(replaced.any(axis=1)), np.flatnonzero(replaced.any(axis=0))
            assert replaced.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)  # nothing but that
            places.add((rows[0], rows[-1], columns[0], columns[-1]))
        assert part_of(truth) == pytest.approx(1 - replaced.sum() / SIDE ** 2, abs=2e-5)
    assert len(places) > 15


def test_batches_are_mixed_by_either_as_often_and_in_parts_of_the_beta_distributions(sess):
    batches = Batches(sess, MixedBatch(CLASSES, 0.1, mixup=0.8, cutmix=1.0))
    parts = {True: [], False: []}
    for step in range(800):
        image, truth = batches.at(step)
        parts[bool((image == np.round(image)).all())].append(part_of(truth))
    assert 320 < len(parts[True]) < 480  # of a binomial distribution's 800, 5.6 standard deviations
    assert stats.kstest(parts[False], stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    # A rectangle in the middle leaves a part that is uniform; where the edge cuts it, more is left.
    assert 0.5 < np.mean(parts[True]) < 0.75


@pytest.mark.parametrize('shape', [0.2, 0.8, 1.0, 4.0])
def test_parts_are_of_the_beta_distribution(sess, shape):
    seed = tf.placeholder(tf.int64, [2])
    part = MixedBatch._draw_part(seed, shape)
    drawn = [sess.run(part, {seed: [7, number]}) for number in range(500)]
    assert stats.kstest(drawn, stats.beta(shape, shape).cdf).pvalue > 1e-3


def test_a_batch_follows_from_run_rank_and_step_alone(sess):
    stage = MixedBatch(CLASSES, 0.1, 0.5, 0.8, 1.0)
    first, again, other = (Batches(sess, stage, rank=rank) for rank in (0, 0, 1))
    for step in (0, 6):
        for mine, same in zip(first.at(step), again.at(step)):
            np.testing.assert_array_equal(mine, same)
        assert not np.array_equal(first.at(step)[1], other.at(step)[1])
    assert not np.array_equal(first.at(0)[1], first.at(6)[1])


def test_without_mixing_labels_stay_labels_and_erased_images_are_no_bytes(sess):
    image, truth = Batches(sess, MixedBatch(CLASSES, 0.1, erasing=1.0)).at(0)
    np.testing.assert_array_equal(truth, LABEL)
    assert image.dtype == np.float32 and image.min() < 0 and image.max() > 255


class Options:
    label_smoothing, mixup, cutmix, random_erasing = 0.1, 0.0, 0.0, 0.0


def test_a_stage_is_made_of_what_a_training_asks_for():
    assert make_stage(Options(), CLASSES) is as_it_is
    for name, field in (('mixup', 'mixup'), ('cutmix', 'cutmix'), ('random_erasing', 'erasing')):
        options = Options()
        setattr(options, name, 0.3)
        assert make_stage(options, CLASSES) == MixedBatch(CLASSES, 0.1, **{field: 0.3})


# Random erasing

def test_erased_rectangles_are_as_often_as_large_and_as_long_as_they_should(sess):
    many, side = 4000, 40
    numbers = tf.constant(RANDOM.random([many, 1 + 4 * erasing.TRIES]), tf.float32)
    erased = sess.run(erasing.rectangles(numbers, side, 0.25))
    hit = erased.any(axis=(1, 2))
    assert stats.binomtest(int(hit.sum()), many, 0.25).pvalue > 1e-3
    height, width = erased[hit].any(axis=2).sum(axis=1), erased[hit].any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(erased[hit].sum(axis=(1, 2)), height * width)
    # Drawn likewise, one after another, by Python's own numbers.
    expected = {'area': [], 'aspect': [], 'top': []}
    while len(expected['area']) < 4000:
        for _ in range(10):
            area, aspect = side ** 2 * RANDOM.uniform(0.02, 1 / 3), np.exp(RANDOM.uniform(np.log(0.3), -np.log(0.3)))
            h, w = int(round((area * aspect) ** 0.5)), int(round((area / aspect) ** 0.5))
            if h < side and w < side:
                for name, value in ('area', h * w), ('aspect', h / w), ('top', RANDOM.integers(0, side - h + 1)):
                    expected[name].append(value)
                break
    found = {'area': height * width, 'aspect': height / width, 'top': erased[hit].any(axis=2).argmax(axis=1)}
    for name in expected:
        assert stats.ks_2samp(found[name], expected[name]).pvalue > 1e-3, name


def test_an_image_loses_one_rectangle_to_normal_noise_of_its_own(sess):
    images = np.full([40, SIDE, SIDE, 3], 100, np.uint8)
    image, _ = Batches(sess, MixedBatch(CLASSES, 0.1, erasing=0.5), images, np.zeros(40, np.int32)).at(0)
    erased = (image != 100).all(axis=3)
    np.testing.assert_array_equal(erased, (image != 100).any(axis=3))
    assert 5 < erased.any(axis=(1, 2)).sum() < 35
    noise = image[erased] / 255
    assert stats.kstest(noise.ravel(), 'norm').pvalue > 1e-3
    assert np.unique(noise).size > 0.99 * noise.size  # no two images, pixels or channels share theirs


def test_an_image_s_rectangle_is_its_own_whatever_else_is_in_the_batch(sess):
    seeds = image_seeds(0, TRAINING_STREAM, np.arange(6))
    image = tf.constant(RANDOM.uniform(0, 255, [6, SIDE, SIDE, 3]), tf.float32)
    whole = erasing.erase_randomly(image, seeds, 0.9)
    part = erasing.erase_randomly(image[2:4], seeds[2:4], 0.9)
    whole, part = sess.run([whole, part])
    np.testing.assert_array_equal(whole[2:4], part)
