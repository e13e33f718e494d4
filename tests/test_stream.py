"""data/stream.py: which image is in which batch."""
import itertools
import logging
import os
import re
import threading
import time

import numpy as np
import pytest

from image_folders import numbered_set, value_of
from third_party.imagenet_utils import FakeStream, TrainingStream, ValidationBatches, View, iterate


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return numbered_set(tmp_path_factory.mktemp('numbered'), 23)


@pytest.fixture
def damaged(tmp_path):
    """Twenty images, three of which cannot be decoded."""
    dataset = numbered_set(tmp_path, 20)
    with open(dataset.files[3], 'w') as f:
        f.write('no image')
    open(dataset.files[4], 'w').close()
    os.remove(dataset.files[19])
    return dataset


def plain(dataset, batch, seed=0):
    return TrainingStream(dataset, batch, View(8, 'none'), seed)


def served(stream, numbers):
    return np.concatenate([value_of(stream.batch(number)[0]) for number in numbers])


@pytest.fixture
def batch_threads():
    """A function giving the threads that prepare batches and were not there before the test."""
    before = set(threading.enumerate())
    return lambda: [thread for thread in threading.enumerate() if thread.name.startswith('batch')
                    and thread not in before]


@pytest.mark.parametrize('batch', [1, 5, 23, 60])
def test_every_image_is_served_once_per_pass(dataset, batch):
    samples = served(plain(dataset, batch), range(-(-23 * 4 // batch)))
    for begin in range(0, 23 * 4, 23):
        assert sorted(samples[begin:begin + 23]) == list(range(23))


def test_every_image_has_its_own_label(dataset):
    for number in range(8):
        image, label = plain(dataset, 6).batch(number)
        assert (value_of(image) % 7 == label).all()
        assert image.shape == (6, 8, 8, 3) and image.dtype == np.uint8 and label.dtype == np.int32


@pytest.mark.parametrize('count', [1, 2, 3, 23])
def test_parts_are_disjoint_and_every_pass_holds_each_image_of_a_part_once(dataset, count):
    parts = []
    for index in range(count):
        stream = TrainingStream(dataset, 1, View(8, 'none'), 0, shard=(index, count))
        size = len(range(index, 23, count))
        passes = [served(stream, range(begin, begin + size)).tolist() for begin in range(0, 3 * size, size)]
        assert all(sorted(each) == sorted(passes[0]) and len(set(each)) == size for each in passes)
        assert size < 7 or len(set(map(tuple, passes))) == 3
        parts += passes[0]
    assert sorted(parts) == list(range(23))


def test_machines_do_not_meet_neighbouring_images_in_the_same_order(dataset):
    orders = [served(TrainingStream(dataset, 11, View(8, 'none'), 0, shard=(index, 2)), [0]) // 2 for index in (0, 1)]
    assert (orders[0] != orders[1]).any()


def test_the_whole_set_is_served_as_before_there_were_parts(dataset):
    expected = np.random.default_rng([5, 0, 1]).permutation(23)
    assert (served(plain(dataset, 23, seed=5), [1]) == expected).all()


def test_a_batch_may_be_written_into_given_arrays(dataset):
    for stream in (plain(dataset, 4), FakeStream(4, 8, 3)):
        given = [np.full(shape, 99, dtype) for dtype, shape in stream.specs]
        stream.fill(3, *given)
        assert all((one == other).all() and one.dtype == other.dtype for one, other in zip(given, stream.batch(3)))


def test_batches_with_an_image_that_ends_early_are_the_same_in_any_order(tmp_path, fixture_path):
    dataset = numbered_set(tmp_path, 3)
    with open(fixture_path('sample.jpg'), 'rb') as source:
        content = source.read()
    with open(dataset.files[1], 'wb') as target:
        target.write(content[:len(content) // 2])
    one, other = (TrainingStream(dataset, 2, View(32, 'imagenet'), 0) for _ in range(2))
    expected = [one.batch(number) for number in range(30)]
    for number in reversed(range(30)):
        assert all((a == b).all() for a, b in zip(other.batch(number), expected[number]))


def test_passes_and_seeds_have_different_orders(dataset):
    orders = [tuple(served(plain(dataset, 23, seed), [number])) for seed in (0, 1) for number in (0, 1, 2)]
    assert len(set(orders)) == 6


def test_a_batch_depends_on_seed_and_number_alone(dataset):
    one, other = (TrainingStream(dataset, 4, View(16, 'imagenet'), 7) for _ in range(2))
    expected = [one.batch(number) for number in range(20)]
    for number in reversed(range(20)):
        image, label = other.batch(number)
        assert (image == expected[number][0]).all() and (label == expected[number][1]).all()


def test_augmentation_differs_between_passes_and_seeds(tmp_path):
    dataset = numbered_set(tmp_path, 1)
    dataset.files[0] = os.path.join(os.path.dirname(__file__), 'fixtures', 'sample.jpg')
    views = {TrainingStream(dataset, 1, View(16, 'imagenet'), seed).batch(number)[0].tobytes()
             for seed in (0, 1) for number in range(3)}
    assert len(views) == 6


@pytest.mark.parametrize('start, stride, threads', [(0, 1, 1), (0, 1, 4), (9, 1, 3), (2, 3, 2)])
def test_iterate_gives_the_batches_in_order_from_any_start(dataset, start, stride, threads):
    stream = TrainingStream(dataset, 4, View(8, 'cifar'), 0)
    loop = iterate(stream, start, stride, threads)
    for number, (image, label) in zip(itertools.count(start, stride), itertools.islice(loop, 12)):
        expected = stream.batch(number)
        assert (image == expected[0]).all() and (label == expected[1]).all()
    loop.close()


class SlowStream:
    """Later batches are ready first; remembers what was asked for."""
    def __init__(self):
        self.asked = []

    def batch(self, number):
        self.asked.append(number)
        time.sleep(0.02 if number % 4 == 0 else 0.001)
        return number


def test_iterate_keeps_the_order_when_later_batches_are_ready_first():
    loop = iterate(SlowStream(), threads=4)
    assert list(itertools.islice(loop, 25)) == list(range(25))
    loop.close()


def test_iterate_prepares_few_batches_ahead():
    stream = SlowStream()
    loop = iterate(stream, threads=3)
    next(loop)
    time.sleep(0.2)
    assert len(stream.asked) <= 3 + 2
    loop.close()


def test_closing_ends_the_threads(dataset, batch_threads):
    loop = iterate(plain(dataset, 4), threads=3)
    next(loop)
    assert batch_threads()
    loop.close()
    assert not batch_threads()
    validation = iter(ValidationBatches(dataset, 4, View(8, 'none'), threads=2))
    next(validation)
    validation.close()
    assert not batch_threads()


def test_an_error_in_a_thread_reaches_the_loop_and_ends_the_threads(batch_threads):
    class Broken:
        def batch(self, number):
            raise ValueError('batch {}'.format(number))
    with pytest.raises(ValueError, match='batch 5'):
        next(iterate(Broken(), start=5, threads=2))
    assert not batch_threads()


def test_unreadable_images_are_replaced_and_warned_of_once(damaged, caplog, logged):
    bad = {damaged.files[k] for k in (3, 4, 19)}
    with caplog.at_level(logging.WARNING):
        stream = plain(damaged, 20)
        samples = [served(stream, [number]) for number in range(3)]
    for order in samples:
        assert set(order) == set(range(20)) - {3, 4, 19} and len(order) == 20
    assert set(stream.unreadable) == bad
    assert sorted(re.search(r'/\S+\.png', line).group() for line in logged()) == sorted(bad)
    assert (served(plain(damaged, 20), [2]) == samples[2]).all()  # a new process replaces alike


def test_a_replaced_image_brings_its_own_label(damaged):
    image, label = plain(damaged, 20).batch(0)
    assert (value_of(image) % 7 == label).all()


def test_a_set_without_a_readable_image_is_refused(tmp_path):
    dataset = numbered_set(tmp_path, 3)
    for path in dataset.files:
        open(path, 'w').close()
    with pytest.raises(ValueError, match='none of the 3 images of numbered can be decoded'):
        plain(dataset, 2).batch(0)


@pytest.mark.parametrize('count, batch', [(23, 4), (23, 23), (23, 50), (20, 5)])
@pytest.mark.parametrize('size', [1, 2, 3])
def test_validation_shards_hold_every_image_once(dataset, count, batch, size):
    dataset = dataset._replace(files=dataset.files[:count], labels=dataset.labels[:count])
    seen = []
    for rank in range(size):
        shard = ValidationBatches(dataset, batch, View(8, 'none'), rank, size, threads=2)
        batches = list(shard)
        assert len(batches) == len(shard)
        for image, label, index in batches:
            assert image.shape == (batch, 8, 8, 3) and image.dtype == np.uint8
            assert label.shape == index.shape == (batch,) and label.dtype == index.dtype == np.int32
            real = index >= 0
            assert (value_of(image)[real] == index[real]).all() and (label[real] == index[real] % 7).all()
            assert not image[~real].any() and not label[~real].any()
            seen += index[real].tolist()
    assert sorted(seen) == list(range(count))


def test_validation_batches_are_the_same_for_any_number_of_ranks(dataset):
    def batches(size):
        shards = [[index.tolist() for _, _, index in ValidationBatches(dataset, 4, View(8, 'none'), rank, size)]
                  for rank in range(size)]
        return sorted(itertools.chain.from_iterable(shards))
    assert batches(1) == batches(2) == batches(3) and len(batches(1)) == 6


@pytest.mark.parametrize('size', [1, 2])
@pytest.mark.parametrize('chosen', [[17, 3, 3, 9, 0, 22, 5], [4], []])
def test_validation_batches_of_chosen_images_hold_these_in_their_order(dataset, chosen, size):
    shares = [ValidationBatches(dataset, 3, View(8, 'none'), rank, size, threads=2, indices=np.array(chosen, np.int64))
              for rank in range(size)]
    assert {share.rounds for share in shares} == {-(-len(chosen) // 3 // size)} and shares[0].round_size == 3 * size
    batches = [batch for found in itertools.zip_longest(*shares) for batch in found if batch is not None]
    seen = np.concatenate([index for _, _, index in batches] or [[]])
    assert seen.tolist() == chosen + [-1] * (-len(chosen) % 3)
    for image, label, index in batches:
        real = index >= 0
        assert (value_of(image)[real] == index[real]).all() and (label[real] == index[real] % 7).all()


def test_validation_marks_unreadable_images_and_can_be_repeated(damaged, logged):
    validation = ValidationBatches(damaged, 8, View(8, 'none'), threads=2)
    for _ in range(2):
        index = np.concatenate([index for _, _, index in validation])
        assert sorted(index[index >= 0]) == [k for k in range(20) if k not in (3, 4, 19)]
        assert index[3] == index[4] == index[19] == -1
    assert validation.unreadable == [damaged.files[k] for k in (3, 4, 19)]
    assert len(logged()) == 3


def test_fake_batches_are_constant_with_labels_in_range():
    stream = FakeStream(5, 16, 3)
    image, label = stream.batch(0)
    assert image.shape == (5, 16, 16, 3) and image.dtype == np.uint8 and image.std() > 50
    assert label.tolist() == [0, 1, 2, 0, 1] and label.dtype == np.int32
    assert all((a == b).all() for a, b in zip(stream.batch(77), (image, label)))


@pytest.mark.parametrize('make, message', [
    (lambda data: TrainingStream(data, 0, View(8, 'none'), 0), '--batch 0'),
    (lambda data: TrainingStream(data, 1, View(0, 'none'), 0), '--input-size 0'),
    (lambda data: TrainingStream(data, 1, View(8, 'nothing'), 0), "--augmentation 'nothing'"),
    (lambda data: TrainingStream(data, 1, View(8, 'none'), -1), '--seed -1'),
    (lambda data: TrainingStream(data, 1, View(8, 'none'), 0, shard=(2, 2)), '--shard 2/2: needs 0 <= I < N'),
    (lambda data: TrainingStream(data, 1, View(8, 'none'), 0, shard=(0, 24)),
     'no larger than the 23 images of numbered'),
    (lambda data: FakeStream(1, 8, 0), '--num-classes 0'),
    (lambda data: ValidationBatches(data, 0, View(8, 'none')), '--batch 0'),
    (lambda data: ValidationBatches(data, 1, View(8, 'none'), rank=2, size=2), 'rank 2 of 2'),
    (lambda data: iterate(plain(data, 1), threads=0), 'threads 0'),
    (lambda data: iterate(plain(data, 1), stride=0), 'stride 0'),
])
def test_arguments_out_of_range_are_refused(dataset, make, message):
    with pytest.raises(ValueError, match=message):
        make(dataset)
