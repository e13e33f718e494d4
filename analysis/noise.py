"""No attack at all: random corners of the ball, which every attack must beat."""
import tensorflow.compat.v1 as tf

from attacks.attacker import Attacked, Attacker, Lengths
from attacks.autoattack.losses import margin
from attacks.threat import PIXEL, as_truth, label_of, no_target
from seeds import EVALUATION_STREAM, image_seeds, noise_seeds

_DRAWS = 2 ** 20  # room for the draws of an image


class RandomNoise(Attacker):
    """The worst of ``num_iter`` random corners of the ball.

    Args:
        num_iter (int): draws, at least 1. epsilon (float): radius in pixel levels, 0-255, L-infinity.
    """
    norm, graph_key = 'Linf', 'noise'

    def __init__(self, num_iter, epsilon):
        self.num_iter, self.epsilon = num_iter, epsilon

    @property
    def name(self):
        return 'noise x {}'.format(self.num_iter)

    @property
    def lengths(self):
        return Lengths(self.num_iter, self.epsilon, 0.0)

    def describe(self):
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'num_iter': self.num_iter}

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        """See ``Attacker``: the image with the smallest margin of the true label."""
        num_iter, epsilon, _ = lengths or self.lengths
        label = label_of(as_truth(truth))
        if seeds is None:
            seeds = image_seeds(0, EVALUATION_STREAM, tf.range(tf.shape(image)[0]))
        reach = epsilon * PIXEL

        def draw(number):
            return tf.clip_by_value(image + reach * _corners(seeds, number, tf.shape(image)[1:]), -1.0, 1.0)

        def another(number, worst, smallest):
            drawn = draw(number)
            found = margin(get_logits(drawn), label)
            worse = found < smallest
            return number + 1, tf.where_v2(worse[:, None, None, None], drawn, worst), tf.minimum(found, smallest)

        with tf.name_scope('random_noise'):
            first = draw(0)
            begin = tf.constant(1), first, margin(get_logits(first), label)
            _, adv, _ = tf.while_loop(lambda *_: True, another, begin,
                                      maximum_iterations=num_iter - 1, back_prop=False, parallel_iterations=1)
            return Attacked(adv, no_target(label), tf.zeros_like(label, tf.bool))


def _corners(seeds, number, shape):
    """1 or -1, float32 [N, ...shape]: draw ``number`` of every image's seed."""
    return tf.map_fn(lambda seed: tf.sign(tf.random.stateless_uniform(shape, seed) - 0.5),
                     noise_seeds(seeds, number, _DRAWS), fn_output_signature=tf.float32, back_prop=False)
