"""Attackers that look at the logits alone: random points of the ball, and a random search for a black-box check."""
import tensorflow.compat.v1 as tf

from adv_model import EVALUATION_STREAM, NO_TARGET, PIXEL, image_seeds

# Keeps these draws apart from those of other attacks on the same images: the first seed holds a stream below 2^24, of
# which training takes the even numbers and evaluation 1.
_STREAM = 2
_DRAWS = 2 ** 20  # room for the draws of an image
_PER_QUERY = 5  # random numbers: row, column, and the sign of each channel


def margin(logits, label):
    """Logit of the true label less the largest other one, float32 [N]; negative where the label is not predicted."""
    own = tf.one_hot(label, int(logits.shape[1]), on_value=True, off_value=False)
    lowest = tf.fill(tf.shape(logits), logits.dtype.min)
    return tf.reduce_max(tf.where_v2(own, logits, lowest), 1) - tf.reduce_max(tf.where_v2(own, lowest, logits), 1)


class RandomNoise:
    """The worst of ``num_iter`` random corners of the ball: no attack at all, so that every attack must beat it.

    Args:
        num_iter (int): draws, at least 1. epsilon (float): radius in pixel levels, 0-255, L-infinity.
    """

    def __init__(self, num_iter, epsilon):
        self.num_iter, self.epsilon = num_iter, epsilon

    @property
    def name(self):
        return 'noise x {}'.format(self.num_iter)

    def attack(self, image, label, get_logits, seeds=None):
        """As ``PGDAttacker.attack``, but for no gradient: the image with the smallest margin of the true label."""
        if seeds is None:
            seeds = image_seeds(0, EVALUATION_STREAM, tf.range(tf.shape(image)[0]))
        seeds = seeds + tf.constant([_STREAM, 0], tf.int64)
        # Masks are made in NHWC.
        channels_first = int(image.shape[1]) == 3
        if channels_first:
            image, inner = tf.transpose(image, [0, 2, 3, 1]), get_logits

            def get_logits(x):
                return inner(tf.transpose(x, [0, 3, 1, 2]))
        reach = self.epsilon * PIXEL
        propose = self._proposals(image, reach, seeds)

        def margin_of(x):
            return margin(get_logits(x), label)

        def query(number, best, smallest):
            tried = propose(number, best)
            found = margin_of(tried)
            # Equal ones too, so that a search can cross a plateau.
            better = found <= smallest
            return number + 1, tf.where_v2(better[:, None, None, None], tried, best), tf.minimum(found, smallest)

        with tf.name_scope('random_search'):
            first = propose(tf.constant(0), image)
            _, adv, _ = tf.while_loop(lambda *_: True, query, (tf.constant(1), first, margin_of(first)),
                                      maximum_iterations=self.num_iter - 1, back_prop=False, parallel_iterations=1)
            if channels_first:
                adv = tf.transpose(adv, [0, 3, 1, 2])
            return adv, tf.fill(tf.shape(label), NO_TARGET)

    def _proposals(self, image, reach, seeds):
        """(number, best image so far) -> the image to try."""
        def propose(number, _):
            signs = draw_each(seeds, number, tf.shape(image)[1:])
            return tf.clip_by_value(image + reach * signs, -1.0, 1.0)
        return propose


class RandomSearch(RandomNoise):
    """A black-box attack in the manner of Square (Andriushchenko et al. 2020, Sec 3): ``num_iter`` queries.

    It starts from vertical stripes of random corners; each query gives one square another random corner, and is kept if
    the margin of the true label does not grow. The squares shrink from half the image's side to a pixel.
    """
    name = 'random search'

    def _proposals(self, image, reach, seeds):
        side = int(image.shape[1])
        lower, upper = (tf.clip_by_value(image + end, -1.0, 1.0) for end in (-reach, reach))
        stripes = draw_each(seeds, 0, [1, side, 3])
        numbers = draw_each(seeds, 1, [self.num_iter, _PER_QUERY], signs=False)

        def propose(number, best):
            left = 1.0 - tf.cast(number, tf.float32) / tf.cast(self.num_iter, tf.float32)
            length = tf.maximum(1, tf.cast(tf.round(left * side / 2), tf.int32))
            drawn = numbers[:, number]
            corner = tf.cast(drawn[:, :2] * tf.cast(side - length + 1, tf.float32), tf.int32)[:, :, None]
            inside = (tf.range(side) >= corner) & (tf.range(side) < corner + length)  # [N, rows and columns, side]
            square = (inside[:, 0, :, None] & inside[:, 1, None, :])[..., None]
            signs = tf.where_v2(tf.equal(number, 0), stripes, tf.sign(drawn[:, None, None, 2:] - 0.5))
            return tf.where_v2(square | tf.equal(number, 0), tf.where_v2(signs > 0, upper, lower), best)
        return propose


def draw_each(seeds, number, shape, signs=True):
    """Random corners (1 or -1), or numbers in [0, 1), float32 [N, ...shape]: draw ``number`` of every image's seed."""
    seeds = seeds * tf.constant([1, _DRAWS], tf.int64) + tf.cast(tf.stack([0, number]), tf.int64)
    drawn = tf.map_fn(lambda seed: tf.random.stateless_uniform(shape, seed), seeds, fn_output_signature=tf.float32,
                      back_prop=False)
    return tf.where_v2(drawn < 0.5, -1.0, 1.0) if signs else drawn
