"""data/efficientnet_view.py against the release's recorded outputs and NumPy: what is where in batches."""
import itertools
import logging
import os
import threading
import time

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

from data.efficientnet_view import ReleasedValidationBatches, released_view
from image_folders import numbered_set
from settings.data import View
from test_records import jpeg, record, write_shards
from third_party.imagenet_utils import ImageSet, decode_image, open_dataset

SEEN = View(32, 'efficientnet')
KEYS_A = -0.75  # of TensorFlow 1's bicubic kernel (Keys 1981)


def cubic_weights(size, length):
    """[size, length]: what each of ``length`` pixels has in each of ``size``: pixel k is at k * length / size."""
    weights = np.zeros([size, length])
    for k in range(size):
        place = k * length / size
        for pixel in range(int(place) - 1, int(place) + 3):
            d = abs(place - pixel)
            if d <= 1:
                weight = (KEYS_A + 2) * d ** 3 - (KEYS_A + 3) * d ** 2 + 1
            else:
                weight = KEYS_A * (d ** 3 - 5 * d ** 2 + 8 * d - 4)
            weights[k, min(max(pixel, 0), length - 1)] += weight
    return weights


def view(image, size):
    """The release's view, in NumPy: float [size,size,3] of uint8 [H,W,3], channels in the same order."""
    height, width = image.shape[:2]
    side = int(size / (size + 32) * min(height, width))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    weights = cubic_weights(size, side)
    return np.einsum('yi,xj,ijc->yxc', weights, weights, image[top:top + side, left:left + side].astype(float))


def noise(height, width, seed=0, channels=3):
    shape = [height, width] + ([channels] if channels > 1 else [])
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder_of(root, contents):
    """An ImageSet of files with these contents (bytes; None for a file that is not there); label k % 7."""
    files = [os.path.join(str(root), '{:02d}.JPEG'.format(k)) for k in range(len(contents))]
    for path, content in zip(files, contents):
        if content is not None:
            with open(path, 'wb') as f:
                f.write(content)
    return ImageSet(files, np.arange(len(files), dtype=np.int32) % 7, [str(k) for k in range(7)], 'folder')


def encoded(image, suffix='.png'):
    return cv2.imencode(suffix, image)[1].tobytes()


def read(dataset, size=32, batch=4, ranks=1):
    """All batches of all ranks in the order of the list."""
    view = View(size, 'efficientnet')
    shares = [ReleasedValidationBatches(dataset, batch, view, rank, ranks, threads=2) for rank in range(ranks)]
    batches = [list(share) for share in shares]
    assert list(map(len, batches)) == list(map(len, shares))
    return [found for found in itertools.chain.from_iterable(itertools.zip_longest(*batches)) if found is not None]


def by_index(batches):
    """{index: (image, label)} of the rows that hold one."""
    return {int(k): (image, int(label)) for row in batches for image, label, k in zip(*row) if k >= 0}


def test_chosen_images_come_in_their_order(tmp_path):
    dataset = numbered_set(tmp_path, 9)
    whole = by_index(read(dataset))
    chosen = [7, 2, 8, 0, 3]
    batches = list(ReleasedValidationBatches(dataset, 2, SEEN, threads=2, indices=np.array(chosen)))
    assert np.concatenate([index for _, _, index in batches]).tolist() == chosen + [-1]
    for number, (image, label) in by_index(batches).items():
        np.testing.assert_array_equal(image, whole[number][0])
        assert label == whole[number][1]


@pytest.mark.parametrize('size', [224, 240, 380])
def test_the_view_is_that_of_the_released_code(sess, fixture_path, load_json, size):
    with open(fixture_path('sample.jpg'), 'rb') as f:
        image = sess.run(released_view(tf.constant(f.read()), size))
    recorded = load_json('preprocessing.json')['efficientnet_eval'][str(size)]
    assert list(image.shape) == recorded['shape'] and str(image.dtype) == recorded['dtype']
    step = recorded['grid_step']
    # JPEG decoders differ by a grey level; this one made the record.
    assert np.abs(image[::step, ::step].ravel() - recorded['grid']).max() <= 1
    assert abs(image.min() - recorded['min']) <= 2 and abs(image.max() - recorded['max']) <= 2
    assert image.sum(dtype=np.float64) == pytest.approx(recorded['sum'], rel=1e-3)


@pytest.mark.parametrize('height, width', [(50, 71), (71, 50), (33, 33), (200, 30)])
@pytest.mark.parametrize('size', [32, 57])
def test_the_view_is_a_central_crop_resized_as_by_tensorflow_1(sess, height, width, size):
    image = noise(height, width)
    found = sess.run(released_view(tf.constant(encoded(image[:, :, ::-1])), size))
    expected = view(image, size)
    assert np.abs(found - expected).max() < 0.6  # its kernel is a table of 1024 steps
    assert expected.min() < 0 and expected.max() > 255  # neither of them is clipped


def test_what_is_transparent_is_laid_on_white_in_the_graph_too(sess):
    """As in a served network, which is given files as they are."""
    content = encoded(noise(40, 50, channels=4))
    opaque = sess.run(released_view(tf.constant(encoded(decode_image(content))), 32))
    assert np.abs(sess.run(released_view(tf.constant(content), 32)) - opaque).max() == 0


def test_formats_other_than_jpeg_go_through(tmp_path):
    images = {'.png': noise(40, 50), '.bmp': noise(41, 50, 1), '.webp': noise(42, 50, 2), '.tiff': noise(43, 50, 3),
              '.ppm': noise(44, 50, 4)}
    contents = [encoded(image, suffix) for suffix, image in images.items()]
    contents += [encoded(noise(45, 50, 5, channels=4)), encoded(noise(46, 50, 6, channels=1)),
                 encoded(noise(47, 50, 7).astype(np.uint16) * 257)]  # transparent, grey, 16 bits
    found = by_index(read(folder_of(tmp_path, contents)))
    assert sorted(found) == list(range(8))
    for k, content in enumerate(contents):
        image, label = found[k]
        assert np.abs(image - view(decode_image(content), 32)).max() < 0.6 and label == k % 7, k


def test_jpeg_files_of_all_kinds_go_through(tmp_path):
    smooth = cv2.resize(noise(6, 7), (70, 60), interpolation=cv2.INTER_CUBIC)
    cmyk = tmp_path / 'cmyk.jpg'
    Image.fromarray(smooth[:, :, ::-1]).convert('CMYK').save(str(cmyk), quality=95)
    options = [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111],
               [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]]
    contents = [cv2.imencode('.jpg', smooth, [cv2.IMWRITE_JPEG_QUALITY, 98] + flags)[1].tobytes() for flags in options]
    contents += [jpeg(cv2.cvtColor(smooth, cv2.COLOR_BGR2GRAY)), cmyk.read_bytes()]
    (tmp_path / 'data').mkdir()
    found = by_index(read(folder_of(tmp_path / 'data', contents)))
    assert sorted(found) == list(range(6))
    for k, content in enumerate(contents):
        assert np.abs(found[k][0] - view(decode_image(content), 32)).mean() < 3, k


def test_batches_hold_images_labels_and_indexes_and_are_filled_up(tmp_path):
    images = [noise(40, 50, k) for k in range(6)]
    batches = read(folder_of(tmp_path, list(map(encoded, images))))
    for image, label, index in batches:
        assert image.shape == (4, 32, 32, 3) and label.shape == index.shape == (4,)
        assert (image.dtype, label.dtype, index.dtype) == (np.float32, np.int32, np.int32)
    assert [index.tolist() for _, _, index in batches] == [[0, 1, 2, 3], [4, 5, -1, -1]]
    assert [label.tolist() for _, label, _ in batches] == [[0, 1, 2, 3], [4, 5, 0, 0]]
    assert not batches[1][0][2:].any()
    for k, (image, _) in by_index(batches).items():
        assert np.abs(image - view(images[k], 32)).max() < 0.6  # BGR, as cv2's


def damaged(root):
    """Ten images of which only 0, 4, 7 and 9 can be read, and those four as uint8 BGR."""
    good = {k: noise(40, 50, k) for k in (0, 4, 7, 9)}
    whole, photo = encoded(noise(40, 50)), jpeg(noise(40, 50))
    bad = {1: None, 2: b'', 3: b'no image', 5: photo[:len(photo) // 2], 6: whole[:30], 8: b'\xff\xd8\xff\xe0 no image'}
    return folder_of(root, [encoded(good[k]) if k in good else bad[k] for k in range(10)]), good


def test_unreadable_images_are_left_out_counted_and_warned_of_once(tmp_path, caplog, logged):
    dataset, good = damaged(tmp_path)
    batches = ReleasedValidationBatches(dataset, 3, SEEN, threads=2)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = list(batches)
            assert [index.tolist() for _, _, index in found] == [[0, -1, -1], [-1, 4, -1], [-1, 7, -1], [9, -1, -1]]
            for k, (image, label) in by_index(found).items():
                assert np.abs(image - view(good[k], 32)).max() < 0.6 and label == k % 7
            for image, label, index in found:
                assert not image[index < 0].any() and not label[index < 0].any()
    bad = [dataset.files[k] for k in (1, 2, 3, 5, 6, 8)]
    assert batches.unreadable == bad
    problems = dict.fromkeys(bad, 'cannot decode image {}; it is left out')
    problems[dataset.files[1]] = '{}: No such file or directory; it is left out'
    problems.update(dict.fromkeys((dataset.files[5], dataset.files[8]), '{}: the JPEG is truncated; it is left out'))
    assert set(logged()) == {
        problem.format(path) for path, problem in problems.items()}
    assert batches.reasons == dict(zip(bad, (
        'No such file or directory', 'cannot be decoded', 'cannot be decoded', 'the JPEG is truncated',
        'cannot be decoded', 'the JPEG is truncated')))
    assert len(logged()) == len(bad)


def test_a_set_without_a_readable_image_gives_empty_rows(tmp_path):
    dataset = folder_of(tmp_path, [b'', b'no image', jpeg(noise(9, 9))[:20]])
    batches = ReleasedValidationBatches(dataset, 2, SEEN, threads=2)
    assert [index.tolist() for _, _, index in batches] == [[-1, -1], [-1, -1]] and len(batches.unreadable) == 3


def test_an_image_too_small_for_a_crop_is_left_out(tmp_path):
    found = by_index(read(folder_of(tmp_path, [encoded(noise(1, 1)), jpeg(noise(1, 9)), encoded(noise(2, 2))])))
    assert sorted(found) == [2]  # 32 / (32 + 32) of one pixel is none


def test_bad_records_are_left_out_and_those_behind_them_keep_index_and_content(tmp_path, caplog):
    images = [noise(40, 50, k) for k in range(5)]
    good = [record(encoded(image), 10 * k + 1) for k, image in enumerate(images)]
    bad = [record(encoded(images[0]), 0), record(b'no image', 4), record(jpeg(images[0])[:300], 4), b'\xff' * 50]
    paths = write_shards(tmp_path, 'validation', [[good[0], bad[0], good[1]], [bad[1], bad[2], good[2], good[3]],
                                                  [bad[3], good[4]]])
    with open(paths[1], 'r+b') as f:  # a flipped bit in the data of its last record
        f.seek(-20, os.SEEK_END)
        byte = f.read(1)
        f.seek(-20, os.SEEK_END)
        f.write(bytes([byte[0] ^ 1]))
    dataset = open_dataset(str(tmp_path), 'val', 1000)
    batches = ReleasedValidationBatches(dataset, 4, SEEN, threads=2)
    for _ in range(2):
        found = by_index(list(batches))
        assert {k: label for k, (_, label) in found.items()} == {0: 0, 2: 10, 5: 20, 8: 40}
        for k, number in ((0, 0), (2, 1), (5, 2), (8, 4)):
            assert np.abs(found[k][0] - view(images[number], 32)).max() < 0.6
    assert batches.unreadable == sorted(dataset.files[k] for k in (1, 3, 4, 6, 7))
    assert len([entry for entry in caplog.records if entry.name.startswith('data')]) == 5


@pytest.mark.parametrize('count, batch', [(10, 3), (10, 4), (10, 20), (8, 4)])
def test_ranks_share_the_batches_of_one(tmp_path, count, batch):
    contents = [encoded(noise(40, 50, k)) if k != 6 else b'no image' for k in range(count)]
    dataset = folder_of(tmp_path, contents)
    alone = read(dataset, batch=batch)
    assert sorted(by_index(alone)) == [k for k in range(count) if k != 6]
    for ranks in (2, 3):
        together = read(dataset, batch=batch, ranks=ranks)
        assert len(together) == len(alone)
        for one, other in zip(alone, together):
            assert all((a == b).all() for a, b in zip(one, other))


def test_a_folder_and_shards_of_the_same_files_give_the_same_arrays(tmp_path):
    contents = [jpeg(noise(40 + k, 50, k)) if k % 2 else encoded(noise(40 + k, 50, k)) for k in range(7)]
    (tmp_path / 'folder').mkdir()
    from_folder = folder_of(tmp_path / 'folder', contents)
    records = [record(content, k + 1) for k, content in enumerate(contents)]
    write_shards(tmp_path / 'shards', 'validation', [records[:2], records[2:]])
    from_shards = open_dataset(str(tmp_path / 'shards'), 'val', 1000)
    for one, other in zip(read(from_folder), read(from_shards)):
        assert all((a == b).all() for a, b in zip(one, other))


@pytest.mark.parametrize('threads', [1, 2, 5])
def test_results_do_not_depend_on_the_threads(tmp_path, threads):
    dataset, good = damaged(tmp_path)
    for one, other in zip(ReleasedValidationBatches(dataset, 4, SEEN, threads=threads), read(dataset)):
        assert all((a == b).all() for a, b in zip(one, other))


class SlowSet:
    """A set of 200 images that takes a moment for each and counts."""
    files, name = [str(k) for k in range(200)], 'slow'

    def __init__(self):
        self.loaded, self.running, self.lock = 0, 0, threading.Lock()
        self.content = encoded(noise(40, 50))

    def load(self, index):
        with self.lock:
            self.loaded, self.running = self.loaded + 1, self.running + 1
        time.sleep(0.01)
        with self.lock:
            self.running -= 1
        return self.content, index


def test_abandoned_batches_leave_nothing_running():
    def abandon():
        dataset = SlowSet()
        batches = iter(ReleasedValidationBatches(dataset, 4, SEEN, threads=2))
        next(batches)
        batches.close()
        seen, deadline = [], time.monotonic() + 10
        while len(seen) < 2 or seen[-1] != seen[-2]:  # what was under way may still end
            assert time.monotonic() < deadline
            seen.append((dataset.loaded, dataset.running))
            time.sleep(0.2)
        assert dataset.running == 0 and dataset.loaded < 30
        return len(os.listdir('/proc/self/task'))
    before = abandon()  # TensorFlow keeps one pool of threads for all sessions
    assert max(abandon() for _ in range(5)) <= before + 1


def test_few_images_are_prepared_ahead():
    dataset = SlowSet()
    batches = iter(ReleasedValidationBatches(dataset, 4, SEEN, threads=2))
    next(batches)
    time.sleep(0.5)
    assert dataset.loaded <= 4 + 4 + 2 * 2 + 1
    batches.close()


def test_the_caller_s_graph_and_session_stay_as_they_are(graph, sess, tmp_path):
    batches = iter(ReleasedValidationBatches(numbered_set(tmp_path, 3), 2, SEEN, threads=2))
    next(batches)
    assert tf.get_default_graph() is graph and graph.get_operations() == []
    assert sess.run(tf.constant(3)) == 3
    batches.close()


@pytest.mark.parametrize('arguments, message', [
    ((0, SEEN), '--batch 0'), ((2, View(0, 'efficientnet')), '--input-size 0'), ((2, SEEN, 2, 2), 'rank 2 of 2')])
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ReleasedValidationBatches(numbered_set(tmp_path, 2), *arguments)
