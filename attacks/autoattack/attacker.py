"""What the attackers of AutoAttack share: units, which images still stand, rounds over those."""
import zlib

import tensorflow.compat.v1 as tf

from attacks import attacker
from attacks.attacker import Attacked, check, check_ball, refuse_lengths
from attacks.autoattack.streams import ImageStreams
from attacks.threat import as_truth, label_of, no_target, predicted_label
from seeds import EVALUATION_STREAM, image_seeds


class Victims:
    """Images under attack, and the network; all for the unit scale, flat.

    Attributes:
        image (tf.Tensor): float32 [N, D], the clean images. label (tf.Tensor): int32 [N].
        seeds (tf.Tensor): int64 [N, 2]. clean_logits (tf.Tensor): float32 [N, classes].
        get_logits: point [M, D] -> logits [M, classes]. shape (tuple of int): of an image in the network's layout.
    """

    def __init__(self, image, label, seeds, clean_logits, get_logits, shape):
        self.image, self.label, self.seeds, self.clean_logits = image, label, seeds, clean_logits
        self.get_logits, self.shape = get_logits, shape

    def take(self, rows):
        """The images of ``rows`` int [M] alone."""
        return Victims(*(tf.gather(v, rows) for v in (self.image, self.label, self.seeds, self.clean_logits)),
                       self.get_logits, self.shape)


_IMAGE_STREAMS = ImageStreams()


class Attacker(attacker.Attacker):
    """Base of the attackers; a subclass sets ``name`` and gives ``_search`` and ``_options``.

    Args:
        norm (str): 'Linf', 'L2' or 'L1'. epsilon (float): radius in pixel levels, 0-255, in any norm: in L2 and L1 too
            it is 255 times that of images in [0, 1].
        num_classes (int): of the network. seed (int): for the draws of images that come without ``seeds``.
        streams (ImageStreams): source of random numbers.
    Raises:
        ValueError: a value that does not work; names it.
    """
    name = None
    least_classes = 2

    def __init__(self, norm, epsilon, num_classes, seed=0, streams=None):
        check_ball(self.name, norm, epsilon)
        self._check('num_classes', num_classes, num_classes >= self.least_classes,
                    'at least {}'.format(self.least_classes))
        self.norm, self.epsilon, self.num_classes = norm, float(epsilon), num_classes
        self.seed, self.streams = seed, streams or _IMAGE_STREAMS

    def _check(self, option, value, valid, wanted):
        check(self.name, option, value, valid, wanted)

    def _check_counts(self, **counts):
        for option, value in counts.items():
            self._check(option, value, value == int(value) and value >= 1, 'a whole number above 0')

    @property
    def radius(self):
        """Epsilon for images in [0, 1]."""
        return self.epsilon / 255

    @property
    def graph_key(self):
        return type(self), self.num_classes, self.seed, self.streams, str(self.describe())

    def describe(self):
        return dict({'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon}, **self._options())

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        """Attack the images of a batch that the network has right; see ``attacks.attacker.Attacker``.

        Args:
            image: of known H and W; N may be unknown. In L2 and L1 an image with values outside of [-1, 1] is first cut
                to them, and epsilon counts from there.
            truth: the right label is ``label_of`` it.
        Returns:
            Attacked: within epsilon of the image where the attack broke it, and the image itself elsewhere. There is no
            target, as the attack is won by any wrong label, and none of its successes is left.
        Raises:
            ValueError: H and W are not known, or lengths are given.
        """
        refuse_lengths(self.name, lengths)
        shape = image.shape[1:]
        if not shape.is_fully_defined():
            raise ValueError('{}: the size of the images must be known, not {}'.format(self.name, shape))
        with tf.name_scope(self.name):
            if seeds is None:
                seeds = image_seeds(self.seed, EVALUATION_STREAM, tf.range(tf.shape(image)[0]))
            label = label_of(as_truth(truth))
            flat = tf.reshape(image, [-1, shape.num_elements()])
            unit = (flat + 1) / 2
            if self.norm != 'Linf':
                unit = tf.clip_by_value(unit, 0.0, 1.0)

            def logits_of_unit(point):
                return get_logits(tf.reshape(2 * point - 1, [-1] + shape.as_list()))

            clean_logits = get_logits(image)
            victims = Victims(unit, label, seeds, clean_logits, logits_of_unit, tuple(shape.as_list()))
            standing = tf.where(tf.equal(predicted_label(clean_logits), label))[:, 0]
            adv = tf.reshape(self._search(victims, flat, standing), tf.shape(image))
            adv.set_shape(image.shape)
            return Attacked(adv, no_target(label), tf.zeros_like(label, tf.bool))

    def _search(self, victims, flat, standing):
        """``flat`` [N, D] in [-1, 1] with its broken images replaced; ``standing`` int64 [M]: the rows to attack."""
        raise NotImplementedError

    def _options(self):
        """Parameters of the attack beside norm and epsilon, JSON-ready."""
        raise NotImplementedError

    def _stream(self, number):
        """Stream of random numbers of this attack; ``number``: int or scalar, apart within the attack."""
        return tf.cast(number, tf.int64) + (zlib.crc32(self.name.encode()) << 24)

    def _in_rounds(self, victims, flat, standing, count, attack_once):
        """What ``_search`` returns, after ``count`` rounds of which each attacks those that still stand.

        ``attack_once``: (round, Victims of M images) -> points [M, D] and whether each breaks its image, bool [M].
        """
        def one_round(number, adv, rows):
            found, broken = attack_once(number, victims.take(rows))
            adv = put(adv, rows, found, broken)
            return number + 1, adv, tf.boolean_mask(rows, ~broken)

        _, adv, _ = tf.while_loop(
            lambda number, _, rows: (number < count) & (tf.size(rows) > 0), one_round,
            [tf.constant(0), flat, standing], shape_invariants=[tf.TensorShape([]), flat.shape, tf.TensorShape([None])],
            back_prop=False, parallel_iterations=1, name='rounds')
        return adv


def put(adv, rows, found, broken):
    """``adv`` [N, D] in [-1, 1], with those of ``found`` [M, D] in [0, 1] marked ``broken`` in their ``rows`` [M]."""
    return tf.tensor_scatter_nd_update(adv, tf.boolean_mask(rows, broken)[:, tf.newaxis],
                                       2 * tf.boolean_mask(found, broken) - 1)


def ranked_label(logits, rank):
    """The label of rank ``rank`` (a scalar; 0 is the most likely), int32 [N]."""
    return tf.nn.top_k(logits, rank + 1).indices[:, rank]


def choose(mask, chosen, others):
    """Rows of ``chosen`` where ``mask`` [N] is set, else of ``others``; both [N, D]."""
    return tf.where_v2(mask[:, tf.newaxis], chosen, others)
