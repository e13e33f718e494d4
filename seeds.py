"""Where the random numbers of a graph come from, and which are whose: none repeats another.

Every image has a pair of seeds, int64 [2], from which all of its draws are made. The first is ``(seed << 24) +
stream``, the second its position in the stream. Parts of a program that draw for the same image keep apart by what they
add:

| stream, of the first seed's lower 24 bits | whose |
|---|---|
| ``TRAINING_STREAM`` + 2 x rank | training attacks; the even numbers below 2^16 |
| ... + ``(layer + 1) << LAYER_SHIFT`` | dropout and dropped blocks of the training pass, from the batch's first image |
| ... + ``BATCH_STAGE`` | what a batch stage draws: an image's, and a batch's from its first image |
| ``EVALUATION_STREAM`` | attacks of an evaluation |
| ... + ``NOISE`` | random corners that attacks are compared with, in ``analysis`` |
| ``LANDSCAPE`` | NumPy's numbers for directions of a landscape, in ``analysis`` |

Within an attack a purpose is added to the second seed, behind room for all purposes; AutoAttack's attackers fold a hash
of their name and a number of the draw into the pair instead (``attacks/autoattack/streams.py``).
"""
import tensorflow.compat.v1 as tf

TRAINING_STREAM, EVALUATION_STREAM = 0, 1
NOISE, LANDSCAPE = 2, 3
LAYER_SHIFT = 16
BATCH_STAGE = 129 << LAYER_SHIFT  # above all layers

# Purposes of draws within an attack on one image.
START, FROM_CLEAN, TARGET_DRAW, START_LENGTH = 0, 1, 2, 3
_PURPOSES = 4
# Of a batch stage.
MIXING, MIXING_SHARE, ERASING, ERASING_NOISE = 0, 1, 2, 3
_STAGE_PURPOSES = 4


def image_seeds(seed, stream, position):
    """Seeds for the random choices of an attack, one pair an image.

    Args:
        seed (int, or tf.Tensor of int64): of the run. stream (int): see ``*_STREAM``; training adds 2 for every rank.
        position (tf.Tensor): int [N], different for every image of a stream.
    Returns:
        tf.Tensor: int64 [N, 2].
    """
    position = tf.cast(position, tf.int64)
    first = tf.fill(tf.shape(position), tf.convert_to_tensor(seed, tf.int64) * (1 << 24) + stream)
    return tf.stack([first, position], axis=1)


def noise_seeds(seeds, number, draws):
    """``seeds`` [N, 2] for draw ``number`` of ``draws``, apart from all that attacks draw for the same images."""
    seeds = seeds + tf.constant([NOISE, 0], tf.int64)
    return seeds * tf.constant([1, draws], tf.int64) + tf.cast(tf.stack([0, number]), tf.int64)


def layer_seed(seed, layer):
    """``seed`` [2] for what layer ``layer`` (int, at most 127) of a network draws in a training pass."""
    return seed + tf.constant([(layer + 1) << LAYER_SHIFT, 0], tf.int64)


def stage_seeds(seeds, purpose):
    """``seeds`` [..., 2] for what a batch stage draws for ``purpose``."""
    return seeds * tf.constant([1, _STAGE_PURPOSES], tf.int64) + tf.constant([BATCH_STAGE, purpose], tf.int64)


def purpose_seeds(seeds, purpose):
    """``seeds`` [N, 2] for what an attack draws for ``purpose``, which keeps one image's draws apart."""
    # Room for every purpose between two neighbouring positions.
    return seeds * tf.constant([1, _PURPOSES], tf.int64) + tf.constant([0, purpose], tf.int64)
