"""Attackers one after another."""
import tensorflow.compat.v1 as tf

from attacks.attacker import Attacked, Attacker, refuse_lengths
from attacks.threat import ANY_STEP, as_truth, is_wrong, no_target, predicted_label
from seeds import EVALUATION_STREAM, image_seeds


class Ensemble(Attacker):
    """Attackers that run one after another, each on the images that still stand.

    Attributes:
        name, norm (str). epsilon (float): in pixel levels. parts (list): of different names; each stays where it has
            succeeded.

    Raises:
        ValueError: two attackers have the same name.
    """
    verdict, one_after_another, parts = ANY_STEP, True, ()

    def __init__(self, name, norm, epsilon, parts):
        names = [a.name for a in parts]
        if len(set(names)) < len(names):
            raise ValueError('{}: an attack is listed twice: {}'.format(name, ', '.join(names)))
        self.name, self.norm, self.epsilon, self.parts = name, norm, epsilon, parts

    @property
    def graph_key(self):
        return (type(self), *((part.graph_key, part.lengths) for part in self.parts))

    def describe(self):
        """JSON-ready, as an attacker's, with the names of its parts."""
        return {'name': self.name, 'norm': self.norm, 'epsilon': self.epsilon, 'targeted': False,
                'attacks': [a.name for a in self.parts]}

    def attack(self, image, truth, get_logits, seeds=None, lengths=None):
        """See ``Attacker``; a part attacks the clean images of those that still stand after all parts before it."""
        refuse_lengths(self.name, lengths)
        with tf.name_scope('ensemble'):
            if seeds is None:
                seeds = image_seeds(0, EVALUATION_STREAM, tf.range(tf.shape(image)[0]))
            truth = as_truth(truth)
            adv, rows = tf.identity(image), tf.range(tf.shape(image)[0])
            for part in self.parts:
                broken = is_wrong(predicted_label(get_logits(tf.gather(adv, rows))), tf.gather(truth, rows))
                rows = tf.boolean_mask(rows, ~broken)
                found = part.attack(*(tf.gather(value, rows) for value in (image, truth)), get_logits,
                                    tf.gather(seeds, rows))
                adv = tf.tensor_scatter_nd_update(adv, rows[:, tf.newaxis], found.image)
            adv.set_shape(image.shape)
            target = no_target(truth)
            return Attacked(adv, target, tf.zeros_like(target, tf.bool))
