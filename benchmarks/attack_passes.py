"""The passes of images through a network that an attack makes: counted, and as the published AutoAttack has them."""
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf


class Passes:
    """Counts the images of a network's forward and backward passes: ``forward``, ``backward`` are lists of numbers of
    images, one a pass. A backward pass on which nothing depends is not there."""

    def __init__(self, get_logits):
        self._get_logits, self.forward, self.backward = get_logits, [], []

    def get_logits(self, image):
        @tf.custom_gradient
        def counted(x):
            def gradient(dy):
                with tf.control_dependencies([self._count(self.backward, x)]):
                    return tf.identity(dy)
            with tf.control_dependencies([self._count(self.forward, x)]):
                return tf.identity(x), gradient
        return self._get_logits(counted(image))

    @staticmethod
    def _count(passes, x):
        return tf.py_func(lambda n: (passes.append(int(n)), np.int32(0))[1], [tf.shape(x)[0]], tf.int32)


class Rounds(NamedTuple):
    """An attack of the published code (github.com/fra31/auto-attack) as rounds, each on the images that still stand.

    A round is a run of APGD (through all balls) or of FAB towards one target, or a query of Square. All images of a run
    go through all its passes; what a run has broken is not in the next one.

    forward, backward (int): passes of an image in a round. most (int): rounds, for an image that stands to the end.
    """
    forward: int
    backward: int
    most: int

    @classmethod
    def of(cls, attack, num_classes):
        """``attack``: what ``describe`` says of an attacker of AutoAttack."""
        if attack['name'] == 'square':
            return cls(1, 0, 1 + attack['num_queries'])  # the start is looked at too
        most = attack['restarts'] * max(attack['targets'], 1)
        if attack['name'] in ('fab', 'fab-t'):
            # The slope of one plane, or of each label's, and a look at whether the new point is wrong.
            planes = 1 if attack['name'] == 'fab-t' else num_classes
            return cls(2 * attack['num_iter'], planes * attack['num_iter'], most)
        points = attack['num_iter'] + (3 if attack['larger_epsilon'] else 1)  # each ball has a start of its own
        return cls(points * attack['eot_iter'], points * attack['eot_iter'], most)

    def of_one(self):
        """(forward, backward) of an image that stands to the end, with the pass that tells its label beforehand."""
        return 1 + self.most * self.forward, self.most * self.backward

    def of_batch(self, forward):
        """(forward, backward) of a batch's images together.

        ``forward``: numbers of images of our own passes (``Passes``), of which those that begin a round tell how many
        images stand; the first one tells the labels.
        """
        standing = sum(forward[1::self.forward][:self.most])
        return forward[0] + standing * self.forward, standing * self.backward
