"""Random numbers from each image's own seeds: those of TensorFlow's ``stateless_*`` ops of one pair of seeds each.

TensorFlow has no op that takes many pairs. Where this project's compiled ops are, on a CPU, one image after another is
drawn, which is fastest there. Elsewhere such a loop is of as many tiny pieces of work as there are images; there all
numbers are computed at once, by the generator that those ops have: Philox 4x32-10 (Salmon et al. 2011), whose key and
counter an op scrambles from the pair.
"""
import math

import tensorflow.compat.v1 as tf

from smooth_activations import can_compile

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
SCRAMBLING_KEY = 0x3EC8F720, 0x02461E29  # TensorFlow's
WORD = 0xFFFFFFFF  # all bits of one
LEAST = 1e-7  # of what TensorFlow takes the logarithm of


def uniform(seeds, shape, low=0.0, high=1.0):
    """float32 [N, *shape], uniform in [low, high), of ``seeds`` int64 [N, 2]."""
    if can_compile():
        return _each(seeds, lambda seed: tf.random.stateless_uniform(shape, seed, low, high))
    return _in_shape(_fractions(seeds, shape), shape) * (high - low) + low


def normal(seeds, shape, wanted=None):
    """float32 [N, *shape], standard normal, of ``seeds`` int64 [N, 2]; 0 where ``wanted``, bool [N], is not."""
    if can_compile() and wanted is None:
        return _each(seeds, lambda seed: tf.random.stateless_normal(shape, seed))
    if can_compile():  # what is not wanted takes no time
        return _each((seeds, wanted), lambda image: tf.cond(
            image[1], lambda: tf.random.stateless_normal(shape, image[0]), lambda: tf.zeros(shape)))
    # Of two uniform numbers two normal ones (Box and Muller 1958).
    first, second = tf.unstack(tf.reshape(_fractions(seeds, shape), [tf.shape(seeds)[0], -1, 2]), axis=2)
    length, angle = tf.sqrt(-2 * tf.math.log(tf.maximum(first, LEAST))), 2 * math.pi * second
    numbers = _in_shape(tf.stack([length * tf.sin(angle), length * tf.cos(angle)], axis=2), shape)
    if wanted is None:
        return numbers
    return tf.where_v2(tf.reshape(wanted, [-1] + [1] * (numbers.shape.rank - 1)), numbers, 0.0)


def fold_in(seeds, stream):
    """``tf.random.experimental.stateless_fold_in`` of each pair of ``seeds`` int64 [N, 2] with an int64 scalar."""
    if can_compile():
        return tf.map_fn(lambda seed: tf.random.experimental.stateless_fold_in(seed, stream), seeds, back_prop=False)
    low, high = _words(seeds, 1)[:2]
    return tf.stack([tf.bitwise.bitwise_or(low[:, 0], tf.bitwise.left_shift(high[:, 0], _of(32))),
                     tf.fill(tf.shape(seeds)[:1], stream)], axis=1)


def _each(images, draw):
    return tf.map_fn(draw, images, fn_output_signature=tf.float32, back_prop=False)


def _in_shape(numbers, shape):
    """[N, ...] with at least as many numbers an image as ``shape`` has, as [N, *shape]."""
    shape, images = tf.convert_to_tensor(shape, tf.int32), tf.shape(numbers)[0]
    numbers = tf.reshape(numbers, [images, -1])[:, :tf.reduce_prod(shape)]
    return tf.reshape(numbers, tf.concat([[images], shape], axis=0))


def _fractions(seeds, shape):
    """The lowest 23 bits of the words for an image of ``shape``, and up to 3 more, as float32 [N, G, 4] below 1."""
    words = tf.stack(_words(seeds, tf.reduce_prod(tf.convert_to_tensor(shape, tf.int32))), axis=2)
    bits = tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(words, _of(0x7FFFFF)), _of(0x3F800000))
    return tf.bitcast(tf.cast(bits, tf.int32), tf.float32) - 1


def _words(seeds, count):
    """The generator's words for ``count`` numbers of each pair of seeds [N, 2], int64 [N, G] each, four to a group."""
    first, second = (_halves(seeds[:, number:number + 1]) for number in (0, 1))
    *key, third, fourth = _philox([_of(word) for word in SCRAMBLING_KEY], (*first, *second))
    group = tf.cast(tf.range((count + 3) // 4), tf.int64)[tf.newaxis]
    return _philox(key, (group, tf.zeros_like(group), third, fourth))


def _philox(key, counter):
    """Four words of a key of two words and a counter of four; words are in the lower halves of int64."""
    for number in range(ROUNDS):
        (low_0, high_0), (low_2, high_2) = (
            _halves(word * _of(multiplier)) for word, multiplier in zip(counter[::2], MULTIPLIERS))
        key_0, key_1 = (tf.bitwise.bitwise_and(word + _of(number * step), _of(WORD))
                        for word, step in zip(key, KEY_STEPS))
        counter = (_xor(high_2, counter[1], key_0), low_2, _xor(high_0, counter[3], key_1), low_0)
    return counter


def _halves(number):
    """The lower and the upper word of an int64."""
    return (tf.bitwise.bitwise_and(number, _of(WORD)),
            tf.bitwise.bitwise_and(tf.bitwise.right_shift(number, _of(32)), _of(WORD)))


def _xor(a, b, c):
    return tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(a, b), c)


def _of(number):
    return tf.constant(number, tf.int64)
