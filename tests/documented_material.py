"""What the documents' commands name: small data sets, an image, and checkpoints of the published networks.

Weights are the rule's (``fixtures/weights_rule.py``), names and shapes those of ``fixtures/variables.json.gz``; files
are in the form in which they are published. All is made when it is first asked for.
"""
import csv
import gzip
import json
import os
import re
import subprocess
import sys

import cv2
import numpy as np

from documented import ROOT

FIXTURES = os.path.join(ROOT, 'tests', 'fixtures')
AVERAGE = '/ExponentialMovingAverage'
TRAINING_IMAGES, VALIDATION_IMAGES, RECOGNISED_IMAGES = 8, 2, 22
CIFAR_CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')

# The names of data in the documents.
IMAGENET = ('path/to/imagenet', 'path/to/imagenet-or-tfrecords', 'data/imagenet', 'imagenet', 'photographs', 'FOLDER')
RECOGNISED = 'D'  # a data set of more images, whose labels are what CKPT takes them for in 64 pixels
RECORDS = 'path/to/tfrecords'
CIFAR = 'cifar10'
DIRECTORY = 'path/to/image/directory'
IMAGE = 'image.jpg'
OF_PYTORCH = 'weights_300.pt'

# The networks whose weights published files hold: rows of variables.json.gz.
PUBLISHED = {
    'R152.npz': 'fair_ResNet-152', 'R152-Denoise.npz': 'fair_ResNetDenoise-152',
    'X101-DenoiseAll.npz': 'fair_ResNeXtDenoiseAll-101', 'X101-DenseDenoise.npz': 'fair_ResNeXtDenoiseAll-101',
    'Res50-silu/Res50-silu': 'sat_ResNet-50-silu', 'Res50-relu/Res50-relu': 'sat_ResNet-50-relu',
    'Res50-smoothrelu/Res50-smoothrelu': 'sat_ResNet-50-smoothrelu',
    'Res50-silu-299/Res50-silu-299': 'sat_ResNet-50-silu',
    'ResX50-silu-32x4d/ResX50-silu-32x4d': 'sat_ResNeXt-50-32x4d-silu',
    'efficientnet-b0/efficientnet-b0': 'efficientnet-b0',
    'efficientnet-bL1-enhanced/efficientnet-bL1-enhanced': 'efficientnet-bL1'}
AVERAGED = {'efficientnet-bL1-enhanced/efficientnet-bL1-enhanced'}  # weights' moving averages instead of the weights
# The reader's own; CifarResNets are recognised by their flags.
OWN = {'b0.npz': 'efficientnet-b0', 'model-1000': 'efficientnet-b0', 'R50-SiLU.npz': 'sat_ResNet-50-silu',
       'my/checkpoint': 'sat_ResNet-50-silu', 'CHECKPOINT': 'sat_ResNet-50-silu', 'CKPT': 'sat_ResNet-50-silu',
       'A': 'sat_ResNet-50-relu', 'B': 'sat_ResNet-50-silu'}
WITH_AVERAGES = {'model-1000'}
SMALL_NETWORK = ('--arch', 'CifarResNet', '-d', '8', '--activation-name', 'silu')
ZOO = 'sat-zoo'  # the folder of downloaded models


class Material:
    """Data and checkpoints in one folder, which grows to gigabytes if all is asked for.

    Args:
        folder (str). weight: (name, shape) -> value of a variable.
    """

    def __init__(self, folder, weight):
        self.folder, self._weight = folder, weight
        with gzip.open(os.path.join(FIXTURES, 'variables.json.gz'), 'rt') as f:
            self._rows = json.load(f)

    def places(self, text):
        """What the command ``text`` may name: pairs of a place in its working directory and the file or folder."""
        for place in IMAGENET:
            yield place, self._made('imagenet', _write_imagenet)
        yield CIFAR, self._made('cifar10', _write_cifar)
        yield DIRECTORY, self._made('pictures', _write_pictures)
        yield IMAGE, os.path.join(FIXTURES, 'sample.jpg')
        yield OF_PYTORCH, os.path.join(FIXTURES, 'rat', 'torch', 'weights.pt')
        if RECOGNISED in text.split():
            yield RECOGNISED, self._made('recognised', self._write_recognised)
        if 'tfrecords' in text.replace('imagenet-or-tfrecords', ''):
            yield RECORDS, self._made('tfrecords', self._write_records)
        words = set(re.split(r"[\s='\"]", text)) - set(re.findall(r'convert\.py \S+ --load \S+ (\S+)', text))
        for name in {**PUBLISHED, **OWN}:
            if name in words:
                small = name == 'CKPT' and 'CifarResNet' in text
                yield from self._checkpoint(name, name, 'small/' + name if small else 'whole/' + name)
            model = name.split('/')[0].replace('.npz', '')
            if 'zoo:' + model in words or text.startswith('python model_zoo.py') and model in words:
                yield from self._checkpoint(name, '{}/{}/{}'.format(ZOO, model, name.split('/')[-1]), 'whole/' + name)

    def _made(self, name, write):
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            write(path)
        return path

    def _write_records(self, path):
        subprocess.run([sys.executable, os.path.join(ROOT, 'tools', 'make_tfrecords.py'), '--data',
                        self._made('imagenet', _write_imagenet), '--output', path], check=True, stdout=subprocess.PIPE)

    def _write_recognised(self, path):
        _write_imagenet(path, RECOGNISED_IMAGES)
        self._checkpoint('CKPT', '', 'whole/CKPT')
        subprocess.run([sys.executable, os.path.join(ROOT, 'main.py'), '--eval', '--load',
                        os.path.join(self.folder, 'whole', 'CKPT'), '--data', path, '-d', '50', '--input-size', '64',
                        '--attack-iter', '0', '--results-dir', path + '-judged'], check=True, stdout=subprocess.PIPE)
        with open(os.path.join(path + '-judged', 'per_example.csv'), newline='') as f:
            _write_labels(path, {os.path.basename(row['file']): row['clean_pred'] for row in csv.DictReader(f)})

    def _checkpoint(self, name, place, kept):
        import convert
        path = os.path.join(self.folder, kept)
        if name.endswith('.npz'):
            if not os.path.exists(path):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                # As tensorpack names variables in such files.
                np.savez(path, **{name + ':0': value for name, value in self._values(name, kept).items()})
            return [(place, path)]
        if not os.path.exists(path + '.index'):
            values = self._values(name, kept)
            if name in PUBLISHED:
                values['global_step'] = np.int64(0)
            convert.write_checkpoint(path, values)
            open(path + '.meta', 'w').close()  # which nothing reads
        return [(place + part, path + part) for part in ('.index', '.data-00000-of-00001', '.meta')]

    def _values(self, name, kept):
        if kept.startswith('small/'):
            shapes = _shapes_of(SMALL_NETWORK)
        else:
            shapes = [variable[:2] for variable in self._rows[{**PUBLISHED, **OWN}[name]]['variables']]
        averages = [(name + AVERAGE, shape) for name, shape in shapes]
        chosen = averages if name in AVERAGED else shapes + averages if name in WITH_AVERAGES else shapes
        # Smooth pictures would make the rule's cubic branch overflow.
        return {name: self._weight(name, shape) * (1e-3 if 'non_local/conv/W' in name else 1) for name, shape in chosen}


def _shapes_of(flags):
    import tensorflow.compat.v1 as tf
    from tensorpack.tfutils.tower import TowerContext

    from networks import make_network
    with tf.Graph().as_default(), TowerContext('', is_training=False):
        make_network(*flags, '--data-format', 'NHWC').get_logits(tf.zeros([1, 32, 32, 3]))
        return [(v.op.name, v.shape.as_list()) for v in tf.global_variables()]


def _picture(number, height, width):
    """Something like a photograph: slopes, edges and noise, uint8 [height, width, 3]."""
    random = np.random.default_rng(number)
    small = random.integers(0, 256, [6, 8, 3]).astype(np.uint8)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int64)
    return np.clip(smooth + random.integers(-20, 21, [height, width, 3]), 0, 255).astype(np.uint8)


def _write(path, number, height=260, width=300):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    assert cv2.imwrite(path, _picture(number, height, width))


def _write_labels(path, labels):
    with open(os.path.join(path, 'val.txt'), 'w') as f:
        f.write(''.join('{} {}\n'.format(name, label) for name, label in labels.items()))


def _write_imagenet(path, validation_images=VALIDATION_IMAGES):
    """The standard structure with few images: train/<wnid>/, and val/ with val.txt beside it."""
    from third_party.imagenet_utils import synsets
    for number in range(TRAINING_IMAGES):
        _write(os.path.join(path, 'train', synsets()[number // 2 * 300], '{}.JPEG'.format(number)), number)
    names = ['ILSVRC2012_val_{:08d}.JPEG'.format(number + 1) for number in range(validation_images)]
    for number, name in enumerate(names):
        _write(os.path.join(path, 'val', name), 100 + number)
    _write_labels(path, {name: number % 4 * 300 for number, name in enumerate(names)})


def _write_cifar(path):
    for number, name in enumerate(CIFAR_CLASSES):
        for split, count in (('train', 2), ('test', 1)):
            for copy in range(count):
                _write(os.path.join(path, split, name, '{}.jpg'.format(copy)), 10 * number + copy, 32, 32)


def _write_pictures(path):
    for number in range(3):
        _write(os.path.join(path, '{}.png'.format(number)), number)
