"""The balls that attacks stay in: L-infinity, L2 and L1 around each image, cut to valid pixels.

Images are float32 [N,...] in [-1, 1], radii numbers or scalar tensors in the same units. A ball knows its projection,
the direction in which a step of length 1 climbs most, and how to draw a point from it.
"""
import tensorflow.compat.v1 as tf

import draws

# Share of an image's elements that an L1 step moves: Tramer and Boneh 2019 (SLIDE) move those at or above the 99th
# percentile of the gradient's size. The single steepest element, which is all that L1 asks for, soon cannot move on.
L1_SHARE = 0.01

_TINY = 1e-30
_CORRECTIONS = 3  # of the L1 projection: one is enough for most images


class LinfBall:
    """Ball of the largest change of an element; both its ends are valid pixels, also around an image that is not."""

    def __init__(self, image, radius):
        self._image, self._radius = image, radius
        self._lower, self._upper = (tf.clip_by_value(image + end, -1.0, 1.0) for end in (-radius, radius))

    def project(self, point):
        """The nearest point of the ball that is a valid image."""
        return tf.minimum(tf.maximum(point, self._lower), self._upper)

    def steepest(self, gradient, adv):
        """The step from ``adv`` of length 1 that climbs most; 0 where the gradient is."""
        return tf.sign(gradient)

    def start(self, draw, draw_number):
        """A point drawn uniformly from the ball, made a valid image.

        Args:
            draw: (function of ``draws``, its arguments after the shape) -> float32 [N,...] for the images.
            draw_number: () -> float32 [N], uniform in [0, 1), independent of what ``draw`` gives.
        """
        return self.project(self._image + draw(draws.uniform, -self._radius, self._radius))


class _RoundBall:
    """A ball of a norm of all elements together, around the image made a valid one.

    A point is first cut to valid pixels and then moved towards the centre, so that it stays valid and uses the whole
    radius; in the other order what the pixels' range takes away would be lost (Croce and Hein 2021 on L1).
    """

    def __init__(self, image, radius):
        self._centre, self._radius = tf.clip_by_value(image, -1.0, 1.0), radius
        self._elements = image.shape[1:].num_elements()

    def project(self, point):
        """A valid image of the ball near ``point``; ``point`` itself if it is one."""
        return self._centre + self._shorten(tf.clip_by_value(point, -1.0, 1.0) - self._centre)

    def start(self, draw, draw_number):
        """As ``LinfBall.start``."""
        return self.project(self._centre + self._radius * self._draw(draw, draw_number))

    def _flat(self, image):
        return tf.reshape(image, [-1, self._elements])

    def _each(self, numbers):
        """[N] or [N, 1] as [N,1,1,1], for all elements of an image."""
        return tf.reshape(numbers, [-1] + [1] * (self._centre.shape.rank - 1))


class L2Ball(_RoundBall):
    """Ball of the Euclidean length of the change (Madry et al. 2017's other norm)."""

    def steepest(self, gradient, adv):
        """The gradient with length 1; 0 where it is 0."""
        # Of elements up to 1, so that the squares of a vanishing gradient do not vanish.
        gradient /= self._each(tf.maximum(tf.reduce_max(tf.abs(self._flat(gradient)), axis=1), _TINY))
        return gradient / tf.maximum(self._length(gradient), _TINY)

    def _length(self, move):
        return self._each(tf.norm(self._flat(move), axis=1))

    def _shorten(self, move):
        return move * tf.minimum(1.0, self._radius / tf.maximum(self._length(move), _TINY))

    def _draw(self, draw, draw_number):
        direction = draw(draws.normal)
        return direction / self._length(direction) * self._each(draw_number() ** (1.0 / self._elements))


class L1Ball(_RoundBall):
    """Ball of the sum of the absolute changes."""

    def steepest(self, gradient, adv):
        """The signs of the largest elements of the gradient (``L1_SHARE``), all as far as the others (SLIDE).

        Elements at the end of the pixels' range that the step would leave are passed over, as in SLIDE's published
        code.
        """
        # But for rounding, by which an element may end beside the end that it was cut to.
        stuck = tf.sign(gradient) * adv > 1 - 1e-5
        size = self._flat(tf.where_v2(stuck, 0.0, tf.abs(gradient)))
        smallest = tf.nn.top_k(size, max(1, round(L1_SHARE * self._elements))).values[:, -1:]
        kept = tf.cast((size >= smallest) & (size > 0), tf.float32)
        share = kept / tf.maximum(tf.reduce_sum(kept, axis=1, keepdims=True), 1.0)
        return tf.sign(gradient) * tf.reshape(share, tf.shape(gradient))

    def _shorten(self, move):
        """The nearest point of the ball: all elements shrink by the same, down to 0 (Duchi et al. 2008)."""
        size = tf.abs(self._flat(move))
        descending = tf.sort(size, direction='DESCENDING')
        excess = tf.cumsum(descending, axis=1) - self._radius
        counts = tf.range(1, self._elements + 1, dtype=tf.float32)
        shrink = tf.reduce_max(excess / counts, axis=1, keepdims=True)
        # The running sum of a large image's 450,000 elements has lost the digits that decide. What is left after
        # shrinking, whose sum is the radius, has them, and Newton's corrections by it come close from either side. Too
        # much must not leave nothing: at most, all elements are as large as the largest and share the radius.
        shrink = tf.maximum(tf.minimum(shrink, descending[:, :1] - self._radius / self._elements), 0.0)
        for _ in range(_CORRECTIONS):
            left = tf.maximum(size - shrink, 0.0)
            excess = tf.reduce_sum(left, axis=1, keepdims=True) - self._radius
            above = tf.math.count_nonzero(left, axis=1, keepdims=True, dtype=tf.float32)
            shrink = tf.maximum(shrink + tf.math.divide_no_nan(excess, above), 0.0)
        return tf.sign(move) * tf.maximum(tf.abs(move) - self._each(shrink), 0.0)

    def _draw(self, draw, draw_number):
        # Signed exponential numbers, divided by the sum of their sizes and of one more: uniform in the ball.
        number = draw(draws.uniform, -1.0, 1.0)
        size = -tf.math.log1p(-tf.minimum(tf.abs(number), 1 - 1e-7))
        total = tf.reduce_sum(self._flat(size), axis=1) - tf.math.log1p(-draw_number())
        return tf.sign(number) * size / self._each(total)


BALLS = {'Linf': LinfBall, 'L2': L2Ball, 'L1': L1Ball}
