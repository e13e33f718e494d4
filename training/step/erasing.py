"""Random erasing (Zhong et al. 2020), in the graph, because what it puts into images is not of 8 bits."""
import math

import tensorflow.compat.v1 as tf

import draws
from seeds import ERASING, ERASING_NOISE, stage_seeds

# RAT release: of the image's area; of height to width, and one over it; rectangles tried, of which the first that fits
# is taken.
LEAST_AREA, MOST_AREA = 0.02, 1 / 3
NARROWEST = 0.3
TRIES = 10
LEVELS = 255  # standard normal noise is for images in [0, 1]


def erase_randomly(image, seeds, probability):
    """Replace a rectangle of some images by noise of mean 0, each value drawn for itself.

    Args:
        image (tf.Tensor): float32 [N,S,S,3], 0-255. seeds (tf.Tensor): int64 [N,2].
        probability (float): that an image loses one.
    """
    erased = rectangles(draws.uniform(stage_seeds(seeds, ERASING), [1 + 4 * TRIES]), int(image.shape[1]), probability)
    noise = draws.normal(stage_seeds(seeds, ERASING_NOISE), image.shape[1:], tf.reduce_any(erased, axis=[1, 2]))
    return tf.where_v2(erased[..., tf.newaxis], LEVELS * noise, image)


def rectangles(numbers, side, probability):
    """Which pixels of each image are erased, bool [N,S,S].

    Args:
        numbers (tf.Tensor): float32 [N, 1 + 4 * TRIES], uniform in [0, 1): for whether, and for each try area, shape,
            and place. side (int): of the images. probability (float).
    """
    area, shape, y, x = tf.unstack(tf.reshape(numbers[:, 1:], [-1, TRIES, 4]), axis=2)
    area = side ** 2 * (LEAST_AREA + (MOST_AREA - LEAST_AREA) * area)
    aspect = tf.exp(math.log(NARROWEST) * (1 - 2 * shape))
    height, width = (tf.cast(tf.round(tf.sqrt(sized)), tf.int32) for sized in (area * aspect, area / aspect))
    fits = (height < side) & (width < side)
    taken = tf.argmax(tf.cast(fits, tf.float32), axis=1)  # the first; of int32 GPUs have none
    hit = (numbers[:, 0] < probability) & tf.reduce_any(fits, axis=1)

    def between(place, length):
        place, length = (tf.gather(each, taken, batch_dims=1)[:, tf.newaxis] for each in (place, length))
        begin = tf.cast(place * tf.cast(side - length + 1, tf.float32), tf.int32)
        return (tf.range(side) >= begin) & (tf.range(side) < begin + length)
    return between(y, height)[:, :, tf.newaxis] & between(x, width)[:, tf.newaxis] & hit[:, tf.newaxis, tf.newaxis]
