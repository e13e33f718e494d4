"""The tiny network that AutoAttack's fixtures were made with (tests/fixtures/README.md), and its images."""
import os
import zlib

import numpy as np
import tensorflow.compat.v1 as tf

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'fixtures', 'autoattack')
CLASSES = 10
EPSILON = {'Linf': 2.0, 'L2': 0.15 * 255, 'L1': 1.5 * 255}  # in pixel levels
LAYERS = (('conv1', (16, 3, 3, 3)), ('conv2', (32, 16, 3, 3)), ('conv3', (32, 32, 3, 3)), ('fc', (10, 32)))


def load(name):
    return np.load(os.path.join(FOLDER, name))


def uniform(tag, shape):
    """float64 in [-1, 1), a function of ``tag`` alone."""
    count = int(np.prod(shape))
    return (2 * np.random.RandomState(zlib.crc32(tag.encode())).random_sample(count) - 1).reshape(shape)


def parameters():
    """dict: name to value, in PyTorch's layout."""
    values = {}
    for name, shape in LAYERS:
        gain = 1.0 if name == 'fc' else 2.5
        kernel = gain * np.sqrt(3.0 / np.prod(shape[1:])) * uniform(name + '.weight', shape)
        values[name + '.weight'] = kernel.astype(np.float32)
        values[name + '.bias'] = (0.1 * uniform(name + '.bias', shape[:1])).astype(np.float32)
    return values


def images():
    """float32 [64,3,16,16] in [0, 1] and labels int32 [64], of which the network has 48 right."""
    fixture = load('tiny_cnn.npz')
    return fixture['images_uint8'].astype(np.float32) / np.float32(255), fixture['labels']


def get_logits(image, data_format='NCHW'):
    """Logits [N, 10] of images in [-1, 1]."""
    values = parameters()
    x = (image + 1) / 2 if data_format == 'NHWC' else tf.transpose((image + 1) / 2, [0, 2, 3, 1])
    x = (x - 0.5) * 0.5
    for name, stride in (('conv1', 1), ('conv2', 2), ('conv3', 2)):
        kernel = values[name + '.weight'].transpose(2, 3, 1, 0)
        x = tf.nn.conv2d(x, kernel, stride, [[0, 0], [1, 1], [1, 1], [0, 0]]) + values[name + '.bias']
        x = tf.tanh(x)
    return tf.matmul(tf.reduce_mean(x, axis=[1, 2]), values['fc.weight'].T) + values['fc.bias']


def sharp_logits(image):
    """The logits times 1000: their cross entropy has hardly a gradient."""
    return 1000 * get_logits(image)


def masked_logits(image):
    """The gradient sees the last channel alone."""
    return get_logits(tf.concat([tf.stop_gradient(image[:, :2]), image[:, 2:]], axis=1))


VARIANTS = {'torch': get_logits, 'x1000': sharp_logits, 'masked': masked_logits}


class ReplayStreams:
    """Random numbers in the order in which the published code drew those of the `replay` fixtures: one stream from seed
    0 for a whole batch, in attack after attack. In place of ``ImageStreams``.

    ``unused``: arrays drawn and not used after each normal one.
    """

    def __init__(self, unused=0):
        self._random, self._unused, self._last = np.random.RandomState(0), unused, []

    def uniform(self, seeds, stream, shape):
        return self._draw(seeds, shape, self._random.random_sample)

    def normal(self, seeds, stream, shape):
        def draw(size):
            used = self._random.standard_normal(size)
            for _ in range(self._unused):
                self._random.standard_normal(size)
            return used
        return self._draw(seeds, shape, draw)

    def rows(self, seeds, stream, count, shared, own):
        def draw(images):
            of_batch = self._random.random_sample([1, shared])
            of_images = self._random.random_sample([len(images), own])
            return np.concatenate([np.repeat(of_batch, len(images), axis=0), of_images], axis=1).astype(np.float32)

        def take(row, images):
            # Rows that the graph does not order itself, those of Square's start, come one after another.
            with tf.control_dependencies(self._last if isinstance(row, int) else [row]):
                numbers = tf.py_func(draw, [images], tf.float32)
            numbers.set_shape([None, shared + own])
            if isinstance(row, int):
                self._last = [numbers]
            return numbers
        return take

    def _draw(self, seeds, shape, draw):
        numbers = tf.py_func(lambda seeds: draw([len(seeds)] + shape.as_list()).astype(np.float32), [seeds], tf.float32)
        numbers.set_shape([None] + shape.as_list())
        return numbers


def attack(sess, attacker, network=get_logits, rows=slice(None), seeds=None):
    """Run an attack on the images of ``rows``; ``seeds``: int64 [N, 2] or None.

    Returns:
        robust (np.ndarray): bool [N], whether the network is right about what the attack returns.
        adv (np.ndarray): that, float32 [N,3,16,16] in [-1, 1].
    """
    x, y = images()
    image = tf.placeholder(tf.float32, [None, 3, 16, 16])
    adv, *_ = attacker.attack(image, tf.constant(y[rows]), network, None if seeds is None else tf.constant(seeds))
    found = sess.run(adv, {image: 2 * x[rows] - 1})
    return sess.run(network(image), {image: found}).argmax(1) == y[rows], found
