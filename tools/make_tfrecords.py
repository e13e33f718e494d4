#!/usr/bin/env python3
"""Writes a data set as TFRecord shards, as the EfficientNet release reads ImageNet: few large files, not many small.

    .venv/bin/python tools/make_tfrecords.py --data /path/to/imagenet --output /path/to/shards

Training images are written in an order drawn from --seed. Image k of the validation folder becomes record k, if no
image before it had to be left out. JPEG files go in unchanged, other formats are encoded as JPEG. Labels count from 1.
"""
import argparse
import contextlib
import os
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # a Ctrl-C ends the program without a traceback
sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from third_party.quiet_tensorflow import quieten_tensorflow

quieten_tensorflow()

try:
    import cv2
    import numpy as np

    from third_party.imagedata.folders import class_folders, default_data, open_dataset
    from third_party.imagedata.images import JPEG_START, Undecodable, Unreadable, decode_image
    from third_party.imagedata.records import (CLASS_FILE, IMAGE_KEY, LABEL_KEY, SHARD_PREFIXES, list_shards,
                                               read_class_file)
    from third_party.imagedata.stream import available_cores, in_order
    from third_party.utils import OneLineParser, fail
except ModuleNotFoundError as missing:
    sys.exit("make_tfrecords: {} has no module {!r}; run `make setup`, then .venv/bin/python {}".format(
        sys.executable, missing.name, sys.argv[0]))

# The release's numbers of shards, and what then is in one: no shard of a smaller set is to hold less.
MAX_SHARDS = {'train': 1024, 'val': 128}
IMAGES_PER_SHARD = {'train': 1250, 'val': 390}
JPEG_FLAGS = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def at_least(low):
    def parse(text):
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError("{} must be at least {}".format(value, low))
        return value
    return parse


def get_parser():
    parser = OneLineParser(prog='make_tfrecords', allow_abbrev=False,
                           description='Write a data set as TFRecord shards, which --data of the other programs takes.')
    parser.add_argument('--data', metavar='FOLDER', help='root of the data set (default: SAT_DATA of the '
                                                           'environment, else the embedded 32x32 digits)')
    parser.add_argument('--output', metavar='FOLDER', required=True, help='where the shards go; made if not there')
    parser.add_argument('--split', choices=('train', 'val', 'both'), default='both', help='(default: %(default)s)')
    for split, flag in (('train', '--shards-train'), ('val', '--shards-validation')):
        parser.add_argument(flag, dest='shards_' + split, type=at_least(1), metavar='SHARDS',
                            help='(default: one for each {} images, at most {})'.format(IMAGES_PER_SHARD[split],
                                                                                       MAX_SHARDS[split]))
    parser.add_argument('--seed', type=at_least(0), default=0,
                        help='seed of the order of the training images (default: %(default)s)')
    return parser


def check_output(folder, splits, classes):
    """Make ``folder`` and its list of classes.

    Raises:
        ValueError: shards of ``splits``, those of other classes, or folders are there already.
        OSError: the folder cannot be written.
    """
    os.makedirs(folder, exist_ok=True)
    folders = class_folders(folder)
    if folders:
        raise ValueError("{} holds folders (first {!r}), beside which shards are not looked for; choose another "
                         "--output".format(folder, folders[0]))
    present = list_shards(folder)
    for split in splits:
        if split in present:
            raise ValueError("{} holds {} {}* files already (first {}); remove them or choose another --output".format(
                folder, len(present[split]), SHARD_PREFIXES[split], present[split][0]))
    if read_class_file(folder) not in (None, classes):
        raise ValueError("{} lists other classes than the data has; choose another --output".format(
            os.path.join(folder, CLASS_FILE)))
    with open(os.path.join(folder, CLASS_FILE), 'w', encoding='utf-8', errors='surrogateescape') as f:
        f.writelines(name + '\n' for name in classes)


def as_jpeg(content):
    """An encoded image as JPEG.

    Returns:
        content (bytes): the same bytes if they are JPEG, else quality 100 without subsampling.
        shape: (height, width) in pixels, as shown.
    Raises:
        Undecodable.
    """
    image = decode_image(content)
    if not content.startswith(JPEG_START):
        content = cv2.imencode('.jpg', image, JPEG_FLAGS)[1].tobytes()
    return content, image.shape[:2]


def make_example(dataset, index):
    """One image as a record.

    Returns:
        record (bytes), encoded anew (bool).
    Raises:
        Unreadable: there is no such image.
    """
    import tensorflow as tf
    content, label = dataset.load(index)
    try:
        jpeg, shape = as_jpeg(content)
    except Undecodable as error:
        raise Unreadable(dataset.files[index], str(error)) from None

    def texts(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def numbers(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    example = tf.train.Example(features=tf.train.Features(feature={
        IMAGE_KEY: texts(jpeg), LABEL_KEY: numbers(label + 1),
        'image/class/synset': texts(os.fsencode(dataset.classes[label])),
        'image/filename': texts(os.fsencode(os.path.basename(dataset.files[index]))),
        'image/format': texts(b'JPEG'), 'image/colorspace': texts(b'RGB'), 'image/channels': numbers(3),
        'image/height': numbers(shape[0]), 'image/width': numbers(shape[1])}))
    return example.SerializeToString(), jpeg is not content


def write_shard(path, dataset, indexes):
    """Write the images ``indexes``. The file has its name only when it is complete.

    Returns:
        number of images that were encoded anew, number of images left out.
    """
    import tensorflow as tf

    def prepare(index):
        try:
            return make_example(dataset, index)
        except Unreadable as error:
            print("make_tfrecords: WARNING: {}; it is left out".format(error), file=sys.stderr)
            return None, False
    unfinished = os.path.join(os.path.dirname(path), '.unfinished-' + os.path.basename(path))
    recoded = left_out = 0
    try:
        with tf.io.TFRecordWriter(unfinished) as writer:
            for record, anew in in_order(prepare, indexes, available_cores()):
                recoded += anew
                if record is None:
                    left_out += 1
                else:
                    writer.write(record)
        os.rename(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(unfinished)
    return recoded, left_out


def write_split(dataset, split, folder, shards, seed):
    """Write one split. Returns: what was written, in words."""
    count = len(dataset.files)
    shards = shards or min(MAX_SHARDS[split], max(1, count // IMAGES_PER_SHARD[split]))
    order = np.random.default_rng(seed).permutation(count) if split == 'train' else np.arange(count)
    paths = [os.path.join(folder, '{}{:05d}-of-{:05d}'.format(SHARD_PREFIXES[split], k, shards)) for k in range(shards)]
    done = [write_shard(path, dataset, order[k * count // shards:(k + 1) * count // shards])
            for k, path in enumerate(paths)]
    recoded, left_out = np.sum(done, axis=0)
    return "{} {} images in {} shard{} ({} encoded anew as JPEG of quality 100, {} unreadable left out)".format(
        count - left_out, split, shards, 's' if shards > 1 else '', recoded, left_out)


def main():
    args = get_parser().parse_args()
    splits = ['train', 'val'] if args.split == 'both' else [args.split]
    try:
        data = args.data or default_data()
        datasets = {split: open_dataset(data, split) for split in splits}
        check_output(args.output, splits, datasets[splits[0]].classes)
        from tensorflow.errors import OpError
        try:
            written = [write_split(datasets[split], split, args.output, getattr(args, 'shards_' + split), args.seed)
                       for split in splits]
        except OpError as error:
            raise OSError(error.message) from None
    except (ValueError, OSError) as error:
        fail(error, 0)
    print("make_tfrecords: {}: {}".format(args.output, ', '.join(written)))


if __name__ == '__main__':
    main()
