"""data/records.py, tools/make_tfrecords.py: shards, judged by TensorFlow's own reader and writer."""
import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import zmq

from image_folders import write_image
from third_party.imagenet_utils import (
    Lease,
    RecordSet,
    TrainingStream,
    Unreadable,
    ValidationBatches,
    View,
    decode_image,
    new_job,
    open_dataset,
    read_image,
    synsets,
)
from zmq_ops import dump_arrays

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOOL = os.path.join(ROOT, 'tools', 'make_tfrecords.py')
SERVER = os.path.join(ROOT, 'third_party', 'serve-data.py')

# Loads a record, tells whether that took TensorFlow, and has TensorFlow parse the same record in the same process.
BOTH_IMPORTED = """
import sys
if sys.argv[2] == 'first':
    import tensorflow
from third_party.imagenet_utils import open_dataset
dataset = open_dataset(sys.argv[1], 'val')
content, label = dataset.load(0)
print('tensorflow' in sys.modules, label)
import tensorflow as tf
example = tf.train.Example.FromString(dataset._read(0))
assert example.features.feature['image/encoded'].bytes_list.value[0] == content
"""


@pytest.fixture(scope='module')
def tool():
    """tools/make_tfrecords.py as a module."""
    spec = importlib.util.spec_from_file_location('make_tfrecords', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make(tool, monkeypatch, capsys):
    """function(flags): run the tool in this process. Returns: its output, what it wrote to stderr."""
    def run(*flags):
        monkeypatch.setattr(sys, 'argv', ['make_tfrecords.py'] + [str(flag) for flag in flags])
        tool.main()
        return capsys.readouterr()
    return run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Twelve training and seven validation JPEG files of noise, of different sizes, in three classes of ImageNet."""
    root = tmp_path_factory.mktemp('folder')
    random = np.random.default_rng(0)
    for split, count in (('train', 12), ('val', 7)):
        for number in range(count):
            path = root / split / synsets()[(0, 207, 999)[number % 3]] / '{:02d}.JPEG'.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(random.integers(0, 256, [20 + number, 31, 3], dtype=np.uint8)))
    return str(root)


@pytest.fixture
def shards(folder, make, tmp_path):
    """``folder`` as five training and three validation shards."""
    make('--data', folder, '--output', tmp_path / 'shards', '--shards-train', 5, '--shards-validation', 3)
    return str(tmp_path / 'shards')


def jpeg(image):
    return cv2.imencode('.jpg', image)[1].tobytes()


def picture(value):
    """A small JPEG that differs from those of other values (0 to 255)."""
    return jpeg(np.full([8, 8, 3], value, np.uint8))


def record(image=None, label=None, name='some.JPEG'):
    """A serialised Example of TensorFlow's with one image (bytes), one label and a file's name, each left out if
    None."""
    import tensorflow as tf
    features = {}
    if name is not None:
        features['image/filename'] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()]))
    if image is not None:
        features['image/encoded'] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    if label is not None:
        features['image/class/label'] = tf.train.Feature(int64_list=tf.train.Int64List(value=np.atleast_1d(label)))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_shards(root, prefix, contents):
    """Write lists of records as shards with TensorFlow's writer. Returns: their paths."""
    import tensorflow as tf
    os.makedirs(str(root), exist_ok=True)
    paths = [os.path.join(str(root), '{}-{:05d}-of-{:05d}'.format(prefix, k, len(contents)))
             for k in range(len(contents))]
    for path, records in zip(paths, contents):
        with tf.io.TFRecordWriter(path) as writer:
            for data in records:
                writer.write(data)
    return paths


def change(path, place, flip=0, end=None):
    """Flip bits of one byte of a file and cut it at ``end``."""
    with open(path, 'rb') as f:
        content = bytearray(f.read())
    content[place] ^= flip
    with open(path, 'wb') as f:
        f.write(content[:end])


def run_python(*arguments):
    return subprocess.run([sys.executable] + list(arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=300)


def load_all(dataset):
    return [dataset.load(index) for index in range(len(dataset.files))]


def validation(dataset, rank=0, size=1, batch=3):
    return list(ValidationBatches(dataset, batch, View(16, 'imagenet'), rank, size, threads=2))


def same(one, other):
    return len(one) == len(other) and all((a == b).all() for pair in zip(one, other) for a, b in zip(*pair))


def test_shards_of_tensorflow_hold_what_tensorflow_reads(tmp_path, sess):
    import tensorflow.compat.v1 as tf
    random = np.random.default_rng(0)
    records = [record(random.bytes(int(random.integers(1, 70000))), label) for label in (1, 1000, 17, 208, 2, 999, 500)]
    paths = write_shards(tmp_path, 'validation', [records[:3], [], records[3:]])
    following = tf.io.parse_single_example(tf.data.make_one_shot_iterator(tf.data.TFRecordDataset(paths)).get_next(), {
        'image/encoded': tf.FixedLenFeature([], tf.string), 'image/class/label': tf.FixedLenFeature([], tf.int64)})
    expected = []
    with pytest.raises(tf.errors.OutOfRangeError):
        while True:
            values = sess.run(following)
            expected.append((values['image/encoded'], int(values['image/class/label']) - 1))
    dataset = open_dataset(str(tmp_path), 'val', 1000)
    assert isinstance(dataset, RecordSet) and load_all(dataset) == expected and len(expected) == 7
    for index in np.random.default_rng(1).permutation(np.repeat(np.arange(7), 3)):
        assert dataset.load(index) == expected[index]
    assert list(dataset.files) == ['validation-{:05d}-of-00003#{}'.format(*place) for place in (
        (0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (2, 3))]
    assert dataset.files[-1] == 'validation-00002-of-00003#3' and len(dataset.files) == 7
    with pytest.raises(IndexError):
        dataset.files[7]
    assert dataset.name == os.path.realpath(str(tmp_path)) and dataset.classes == synsets()


def test_links_to_shards_and_names_without_numbers_count_and_hidden_files_do_not(tmp_path):
    path, = write_shards(tmp_path / 'elsewhere', 'train', [[record(picture(7), 3)]])
    os.makedirs(str(tmp_path / 'data'))
    os.symlink(path, str(tmp_path / 'data' / 'train-link'))
    (tmp_path / 'data' / '.unfinished-train-x').write_text('nothing')
    (tmp_path / 'data' / 'README').write_text('nothing')
    (tmp_path / 'data' / '.cache').mkdir()
    dataset = open_dataset(str(tmp_path / 'data'), 'train', 1000)
    assert list(dataset.files) == ['train-link#0'] and dataset.load(0) == (picture(7), 2)


# Each record takes 12 bytes of header, its data, 4 bytes of checksum; 'end' is where the third one of five begins.
@pytest.mark.parametrize('damage, message', [
    (lambda path, end, _: change(path, 0, end=end + 5), 'the file ends there, within a header'),
    (lambda path, end, size: change(path, 0, end=end + 12 + size // 2), r'the record needs \d+ bytes, the file ends'),
    (lambda path, end, size: change(path, 0, end=end + 12 + size + 3), r'the record needs \d+ bytes, the file ends'),
    (lambda path, end, _: change(path, end, 1), 'the checksum of the header is wrong'),
    (lambda path, end, _: change(path, end + 6, 64), 'the checksum of the header is wrong'),
    (lambda path, end, _: change(path, end + 9, 4), 'the checksum of the header is wrong'),
])
def test_a_damaged_shard_is_refused_with_its_place(tmp_path, damage, message):
    data = record(picture(1), 5)
    paths = write_shards(tmp_path, 'train', [[data] * 2, [data] * 5, [data]])
    end = 2 * (len(data) + 16)
    damage(paths[1], end, len(data))
    expected = '{}: damaged after 2 whole records, at byte {}: {}.*; get this file again'
    with pytest.raises(ValueError, match=expected.format(re.escape(paths[1]), end, message)) as error:
        open_dataset(str(tmp_path), 'train', 1000)
    assert '\n' not in str(error.value)


def test_a_file_that_is_no_shard_is_refused(tmp_path):
    write_shards(tmp_path, 'train', [[record(picture(1), 5)]])
    (tmp_path / 'train-notes.txt').write_text('Some notes of the one who made these shards.')
    with pytest.raises(ValueError, match='train-notes.txt: damaged after 0 whole records, at byte 0: .*or remove it'):
        open_dataset(str(tmp_path), 'train', 1000)


@pytest.mark.parametrize('bad, reason', [
    (lambda: record(picture(0), 0), 'label 0 is not in 1..1000'),
    (lambda: record(picture(0), 1001), 'label 1001 is not in 1..1000'),
    (lambda: record(picture(0), -1), 'label -1 is not in 1..1000'),
    (lambda: record(picture(0), 2**63 - 1), 'label 9223372036854775807 is not in 1..1000'),
    (lambda: record(picture(0)), 'it has no image/class/label'),
    (lambda: record(picture(0), [3, 4]), 'image/class/label has 2 values, not one'),
    (lambda: record(None, 4), 'it has no image/encoded'),
    (lambda: record(b'', 4), 'image/encoded is empty'),
    (lambda: b'', 'it has no image/encoded'),
    (lambda: b'\xff' * 50, 'it is no tf.train.Example'),
    (lambda: record(picture(0), 4)[:-3], 'it is no tf.train.Example'),
    (lambda: record(b'no image', 4), None),
])
def test_a_bad_record_is_left_out_with_its_reason(tmp_path, logged, bad, reason):
    good = [record(picture(value), 10 * value + 1) for value in range(4)]
    write_shards(tmp_path, 'validation', [[good[0]], [good[1], bad(), good[2]], [good[3]]])
    dataset = open_dataset(str(tmp_path), 'val', 1000)
    batches = ValidationBatches(dataset, 2, View(8, 'none'))
    for _ in range(2):
        found = [(int(k), int(one)) for _, label, index in batches for k, one in zip(index, label)]
        assert found == [(0, 0), (1, 10), (-1, 0), (3, 20), (4, 30), (-1, 0)]
    name = 'validation-00001-of-00003#1'
    problem = '{}: {}'.format(name, reason) if reason else 'cannot decode image {}'.format(name)
    assert batches.unreadable == [name]
    assert logged() == [problem + '; it is left out']
    if reason:
        with pytest.raises(Unreadable, match=re.escape(problem)):
            dataset.load(2)


@pytest.mark.parametrize('place', [0, 100, -1])
def test_a_flipped_bit_in_the_data_costs_that_record(tmp_path, place):
    data = record(picture(1), 5)
    path, = write_shards(tmp_path, 'train', [[data] * 3])
    change(path, len(data) + 16 + 12 + (place if place >= 0 else len(data) + 4 + place), 16)
    dataset = open_dataset(str(tmp_path), 'train', 1000)
    assert dataset.load(0) == dataset.load(2) == (picture(1), 4)
    with pytest.raises(Unreadable, match='train-00000-of-00001#1: the checksum of its data is wrong'):
        dataset.load(1)


def test_a_shard_that_changes_while_it_is_read_costs_its_records(tmp_path):
    data = record(picture(1), 5)
    paths = write_shards(tmp_path, 'train', [[data] * 2, [data]])
    dataset = open_dataset(str(tmp_path), 'train', 1000)
    change(paths[0], 0, end=-7)
    os.remove(paths[1])
    assert dataset.load(0) == (picture(1), 4)
    for index, reason in ((1, '#1: the file has become shorter'), (2, '#0: No such file or directory')):
        with pytest.raises(Unreadable, match=reason):
            dataset.load(index)


def test_a_set_of_bad_records_ends_a_training_stream(tmp_path, logged):
    write_shards(tmp_path, 'train', [[record(picture(1), 0), record(picture(1), 7)]])
    stream = TrainingStream(open_dataset(str(tmp_path), 'train', 3), 4, View(8, 'none'), 0)
    with pytest.raises(ValueError, match='none of the 2 images of .*; the first: train-00000-of-00001#0: label 0 is'):
        stream.batch(0)
    assert len(logged()) == 2


@pytest.mark.parametrize('names, split, message', [
    ([], 'val', 'no class folders and no images in .*or TFRecord shards'),
    (['train-00000-of-00002', 'train-00001-of-00002'], 'val',
     r'2 train-\* shards are there, but no validation-\* for the val split'),
    (['validation-a'], 'train', r'1 validation-\* shards are there, but no train-\* for the train split'),
    (['train-00000-of-00005', 'train-00002-of-00005'], 'train',
     'train: 3 of the 5 shards like train-00000-of-00005 are missing, the first is number 00001'),
    (['train-00003-of-00004'], 'train', '3 of the 4 shards .*the first is number 00000'),
    (['train-00000-of-00001', 'train-00000-of-00002', 'train-00001-of-00002'], 'train',
     'different sets .1 shards and 2 shards., such as train-00000-of-00001 and train-00001-of-00002'),
    (['train-00000-of-00001'], 'train', r'its 1 shards \(train-00000-of-00001 ...\) hold no records'),
])
def test_shards_that_do_not_fit_are_refused(tmp_path, names, split, message):
    root = tmp_path / 'train'
    root.mkdir()
    for name in names:
        (root / name).touch()
    with pytest.raises(ValueError, match=message) as error:
        open_dataset(str(root), split, 1000)
    assert '\n' not in str(error.value)


def test_image_folders_stay_image_folders(tmp_path):
    write_image(str(tmp_path / 'split' / 'train' / 'ant' / '1.png'))
    (tmp_path / 'split' / 'train-00000-of-00001').touch()
    assert len(open_dataset(str(tmp_path / 'split'), 'train', 10).labels) == 1
    write_image(str(tmp_path / 'flat' / 'validation-1.JPEG'))
    (tmp_path / 'flat' / 'val.txt').write_text('validation-1.JPEG 3\n')
    assert open_dataset(str(tmp_path / 'flat'), 'val', 10).labels.tolist() == [3]


@pytest.fixture
def three_classes(tmp_path):
    """Shards with classes.txt: ant, bee, cow; labels 1, 2, 3 and, out of range, 4."""
    write_shards(tmp_path, 'train', [[record(picture(0), label) for label in (1, 2, 3, 4)]])
    (tmp_path / 'classes.txt').write_text('ant\nbee\ncow\n')
    return str(tmp_path)


def labels_of(dataset):
    def label_of(index):
        try:
            return dataset.load(index)[1]
        except Unreadable:
            return None
    return [label_of(index) for index in range(len(dataset.files))]


@pytest.mark.parametrize('num_classes, classes, names, labels', [
    (None, None, ['ant', 'bee', 'cow'], [0, 1, 2, None]),
    (3, None, ['ant', 'bee', 'cow'], [0, 1, 2, None]),
    (1000, None, ['ant', 'bee', 'cow'], [0, 1, 2, None]),
    (1001, None, ['background', 'ant', 'bee', 'cow'], [1, 2, 3, None]),
    (3, ['ant', 'bee', 'cow'], ['ant', 'bee', 'cow'], [0, 1, 2, None]),
    (4, ['cow', 'dog', 'ant', 'bee'], ['cow', 'dog', 'ant', 'bee'], [2, 3, 0, None]),
    (1001, ['background', 'ant', 'bee', 'cow'], ['background', 'ant', 'bee', 'cow'], [1, 2, 3, None]),
])
def test_labels_follow_the_list_of_classes(three_classes, num_classes, classes, names, labels):
    dataset = open_dataset(three_classes, 'train', num_classes, classes)
    assert dataset.classes == names and labels_of(dataset) == labels


@pytest.mark.parametrize('num_classes, classes, message', [
    (2, None, "--num-classes 2: .* has class 'cow' with label 2, the network's labels end at 1; give --num-classes 3"),
    (3, ['ant', 'bee', 'dog'], r"1 of its 3 classes \(first: 'cow'\), which come from classes.txt, .* 3 known classes"),
    (2, ['ant', 'bee'], "first: 'cow'"),
])
def test_classes_that_do_not_fit_are_refused(three_classes, num_classes, classes, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(three_classes, 'train', num_classes, classes)


def test_without_a_list_the_classes_are_those_of_imagenet(tmp_path):
    write_shards(tmp_path, 'train', [[record(picture(0), label) for label in (0, 1, 10, 11, 1000, 1001)]])

    def opened(num_classes, classes=None):
        return open_dataset(str(tmp_path), 'train', num_classes, classes)
    assert opened(1000).classes == opened(10).classes == opened(None).classes == synsets()
    assert labels_of(opened(1000)) == labels_of(opened(1000, synsets())) == [None, 0, 9, 10, 999, None]
    assert labels_of(opened(10)) == [None, 0, 9, None, None, None]
    assert opened(1001).classes == ['background'] + synsets()
    assert labels_of(opened(1001)) == labels_of(opened(1001, opened(1001).classes)) == [None, 1, 10, 11, 1000, None]
    with pytest.raises(ValueError, match='1000 of its 1000 classes .*come from ImageNet, as there is no classes.txt'):
        opened(2, ['ant', 'bee'])


@pytest.mark.parametrize('text', ['', 'ant\n\nbee\n', 'ant\nant\n'])
def test_a_list_of_classes_that_is_none_is_refused(three_classes, text):
    with open(os.path.join(three_classes, 'classes.txt'), 'w') as f:
        f.write(text)
    with pytest.raises(ValueError, match='classes.txt: expected one class name on each line'):
        open_dataset(three_classes, 'train', 3)


@pytest.mark.parametrize('batch', [2, 3, 20])
def test_ranks_together_hold_every_record_once_with_bad_ones_between(tmp_path, batch):
    labels = [1, 2, 0, 3, 4, 5, 2000, 6, 7, 8, 9]
    records = [record(picture(10 * k), label) for k, label in enumerate(labels)]
    write_shards(tmp_path, 'validation', [records[:4], records[4:5], [], records[5:]])
    dataset = open_dataset(str(tmp_path), 'val', 1000)
    together = [[] for _ in range(3)]
    for size in (1, 2, 3):
        for rank in range(size):
            for image, label, index in validation(dataset, rank, size, batch):
                together[size - 1] += [(int(k), int(one), picture.tobytes())
                                       for k, one, picture in zip(index, label, image) if k >= 0]
        together[size - 1].sort()
        assert [(k, one) for k, one, _ in together[size - 1]] == [
            (k, label - 1) for k, label in enumerate(labels) if k not in (2, 6)]
    assert together[0] == together[1] == together[2]


def test_validation_from_the_shards_is_that_from_the_folder(folder, shards):
    from_folder, from_shards = open_dataset(folder, 'val', 1000), open_dataset(shards, 'val', 1000)
    assert same(validation(from_folder), validation(from_shards)) and len(from_shards.files) == 7
    assert from_folder.classes == from_shards.classes == synsets()
    assert [from_folder.load(k) for k in range(7)] == load_all(from_shards)  # the JPEG files themselves
    assert len(os.listdir(shards)) == 9 and open(os.path.join(shards, 'classes.txt')).read().split() == synsets()


def test_training_from_the_shards_is_that_from_the_folder_in_another_order(folder, shards):
    """Record k is image order[k] of the folder: the same set listed in that order gives the same batches."""
    from_folder, from_shards = open_dataset(folder, 'train', 1000), open_dataset(shards, 'train', 1000)
    number_of = {from_folder.load(k): k for k in range(12)}
    order = [number_of[record] for record in load_all(from_shards)]
    assert sorted(order) == list(range(12)) and order != sorted(order)
    listed = from_folder._replace(files=[from_folder.files[k] for k in order], labels=from_folder.labels[order])
    one, other = (TrainingStream(dataset, 5, View(16, 'imagenet'), 3) for dataset in (listed, from_shards))
    assert same([one.batch(k) for k in range(6)], [other.batch(k) for k in (5, 4, 3, 2, 1, 0)][::-1])
    assert other.unreadable == {}


def test_the_seed_decides_the_order_of_the_training_records(folder, make, tmp_path):
    def orders(*flags):
        out = tmp_path / secrets.token_hex(4)
        make('--data', folder, '--output', out, '--split', 'train', *flags)
        return load_all(open_dataset(str(out), 'train'))
    first = orders()
    assert first == orders('--seed', 0) == orders('--shards-train', 4) != orders('--seed', 1)


def test_the_records_have_the_keys_of_the_release(shards, folder):
    import tensorflow as tf
    dataset = open_dataset(shards, 'val')
    source = open_dataset(folder, 'val').files[3]
    features = tf.train.Example.FromString(dataset._read(3)).features.feature
    values = {key: (feature.bytes_list.value or feature.int64_list.value)[0] for key, feature in features.items()}
    with open(source, 'rb') as f:
        content = f.read()
    height, width, _ = read_image(source).shape
    assert values == {
        'image/encoded': content, 'image/class/label': 208, 'image/class/synset': b'n02099601',
        'image/filename': os.path.basename(source).encode(), 'image/format': b'JPEG', 'image/colorspace': b'RGB',
        'image/channels': 3, 'image/height': height, 'image/width': width}


def test_other_formats_become_jpeg_and_unreadable_files_are_left_out(make, tmp_path):
    image = np.random.default_rng(0).integers(100, 140, [16, 16, 3], dtype=np.uint8)
    for name in ('val/ant/1.png', 'val/ant/2.jpg', 'val/bee/3.JPEG'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(tmp_path / 'val/ant/1.png'), image)
    (tmp_path / 'val/ant/2.jpg').write_text('no image')
    shutil.copy(str(tmp_path / 'val/ant/1.png'), str(tmp_path / 'val/bee/3.JPEG'))  # as one file of ImageNet: a PNG
    out, err = make('--data', tmp_path, '--output', tmp_path / 'out', '--split', 'val')
    assert out == ('make_tfrecords: {}: 2 val images in 1 shard (2 encoded anew as JPEG of quality 100, 1 unreadable '
                   'left out)\n'.format(tmp_path / 'out'))
    assert err == 'make_tfrecords: WARNING: cannot decode image {}; it is left out\n'.format(tmp_path / 'val/ant/2.jpg')
    dataset = open_dataset(str(tmp_path / 'out'), 'val')
    assert dataset.classes == ['ant', 'bee'] and [label for _, label in load_all(dataset)] == [0, 1]
    for content, _ in load_all(dataset):
        assert content.startswith(b'\xff\xd8\xff')
        # Noise in colour: with subsampling the error would be ten times this.
        assert np.abs(decode_image(content).astype(int) - image).mean() < 1


def test_a_truncated_jpeg_in_a_record_is_left_out_and_named(tmp_path, logged):
    whole = jpeg(np.random.default_rng(0).integers(0, 256, [30, 40, 3], np.uint8))
    shard = [record(whole, 1), record(whole[:len(whole) // 2], 2), record(whole, 3)]
    path, = write_shards(tmp_path, 'validation', [shard])
    dataset = open_dataset(str(tmp_path), 'val')
    batches = ValidationBatches(dataset, 3, View(16, 'none'))
    assert [index.tolist() for _, _, index in batches] == [[0, -1, 2]]
    assert logged()[-1] == '{}: the JPEG is truncated; it is left out'.format(dataset.files[1])
    assert dataset.shards == [path]


@pytest.mark.parametrize('split, images, shards', [
    ('train', 1281167, 1024), ('train', 2000000, 1024), ('val', 50000, 128), ('train', 1249, 1), ('train', 2500, 2),
    ('val', 389, 1), ('val', 1170, 3)])
def test_the_number_of_shards_follows_the_size_of_the_set(tool, monkeypatch, split, images, shards):
    written = []

    def write_shard(path, dataset, indexes):
        written.append((path, indexes))
        return 0, 0
    monkeypatch.setattr(tool, 'write_shard', write_shard)
    tool.write_split(type('Set', (), {'files': range(images)}), split, 'out', None, 0)
    prefix = {'train': 'train', 'val': 'validation'}[split]
    assert [path for path, _ in written] == ['out/{}-{:05d}-of-{:05d}'.format(prefix, k, shards) for k in range(shards)]
    order = np.concatenate([indexes for _, indexes in written])
    assert (np.sort(order) == np.arange(images)).all() and (order == np.arange(images)).all() == (split == 'val')
    sizes = {len(indexes) for _, indexes in written}
    assert max(sizes) - min(sizes) <= 1


def test_shards_can_be_cut_anew(shards, make, tmp_path):
    make('--data', shards, '--output', tmp_path / 'again', '--split', 'val', '--shards-validation', 1)
    assert load_all(open_dataset(str(tmp_path / 'again'), 'val')) == load_all(open_dataset(shards, 'val'))


def test_a_split_can_be_added_but_not_written_twice_or_with_other_classes(folder, make, tmp_path, capsys):
    out = tmp_path / 'out'
    make('--data', folder, '--output', out, '--split', 'train')
    make('--data', folder, '--output', out, '--split', 'val')
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_image(str(tmp_path / 'other' / 'val' / 'ant' / '1.png'))
    (out / 'validation-00000-of-00001').rename(tmp_path / 'kept')
    for flags, message in (([folder, '--split', 'train'], r'holds 1 train-\* files already .first train-00000-of-0000'),
                           ([folder, '--split', 'both'], r'holds 1 train-\* files already'),
                           ([tmp_path / 'other', '--split', 'val'], 'classes.txt lists other classes than the data')):
        with pytest.raises(SystemExit) as stop:
            make('--output', out, '--data', *flags)
        captured = capsys.readouterr()
        assert stop.value.code == 2 and re.fullmatch('make_tfrecords.py: error: .*{}.*\n'.format(message), captured.err)
    (tmp_path / 'kept').rename(out / 'validation-00000-of-00001')
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize('flags, message', [
    (['--data', '/nowhere/at/all', '--output', '{tmp}/out'], "--data '/nowhere/at/all': no such directory"),
    (['--data', '{folder}', '--output', '{tmp}/file'], 'File exists'),
    (['--data', '{folder}', '--output', '{tmp}/file/out'], 'Not a directory'),
    (['--data', '{folder}', '--output', '{folder}'], "holds folders .first 'train'."),
    (['--data', '{folder}', '--output', '{tmp}/out', '--shards-train', '0'], '0 must be at least 1'),
    (['--data', '{folder}', '--output', '{tmp}/out', '--seed', '-1'], '-1 must be at least 0'),
    (['--data', '{folder}/val', '--output', '{tmp}/out', '--split', 'dev'], 'invalid choice'),
    (['--data', '{folder}'], 'required: --output'),
])
def test_what_the_tool_refuses_ends_with_one_line_and_exit_code_2(folder, tmp_path, flags, message):
    (tmp_path / 'file').touch()
    result = run_python(TOOL, *[flag.format(folder=folder, tmp=tmp_path) for flag in flags])
    assert result.returncode == 2 and result.stdout == '' and not (tmp_path / 'out').exists()
    assert re.fullmatch('make_tfrecords.py: error: .*{}.*\n'.format(message), result.stderr)


def test_a_full_disk_ends_the_tool_with_one_line_and_leaves_nothing_unfinished(folder, tmp_path):
    limited = ("import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
               "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')")
    result = run_python('-c', limited, TOOL, '--data', folder, '--output', str(tmp_path), '--split', 'train')
    assert result.returncode == 2 and re.fullmatch('make_tfrecords.py: error: .*File too large.*\n', result.stderr)
    assert os.listdir(str(tmp_path)) == ['classes.txt']


@pytest.mark.parametrize('tensorflow', [pytest.param('first', marks=pytest.mark.slow), 'later'])
def test_records_need_no_tensorflow_and_do_not_clash_with_it(shards, tensorflow):
    result = run_python('-c', BOTH_IMPORTED, shards, tensorflow)
    assert result.returncode == 0, result.stderr
    assert result.stdout == '{} 0\n'.format(tensorflow == 'first')


def test_the_data_server_serves_shards_and_tells_of_a_bad_record_once(folder, tmp_path):
    good = [record(picture(20 * k), k + 1) for k in range(9)]
    write_shards(tmp_path, 'train', [good[:5], [record(picture(0), 1042)], good[5:]])
    address = 'ipc://@test-records-' + secrets.token_hex(8)
    server = subprocess.Popen([sys.executable, SERVER, '--data', str(tmp_path), '--batch', '4', '--input-size', '16',
                               '--workers', '3', '--address', address], cwd='/', stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    try:
        assert '(10 images, 1000 classes), batch 4' in server.stdout.readline()
        stream = TrainingStream(open_dataset(str(tmp_path), 'train'), 4, View(16, 'cifar'), 0)
        with Lease(address, {}, new_job(), 20) as lease, zmq.Context() as context, \
                lease.receiver(context, 1) as socket:
            for number in range(12):
                assert socket.poll(30000)
                assert socket.recv() == bytes(dump_arrays(list(stream.batch(number))))
        server.terminate()
        output, warnings = server.communicate(timeout=20)
    finally:
        server.kill()
        server.communicate()
    assert warnings == 'serve-data: WARNING: train-00001-of-00003#0: label 1042 is not in 1..1000; it is left out\n'
    assert output == 'serve-data: 1 of 10 images could not be decoded and were left out\n'
