"""A network as tensors in a session: what others' tools for TensorFlow's graphs take."""
from typing import NamedTuple, Tuple

import numpy as np
import tensorflow.compat.v1 as tf

from adv_model import image_preprocess
from sat.pixels import check_bounds


class Tensors(NamedTuple):
    """A network in a session with its weights.

    image: placeholder, float32 [N,S,S,3] or [N,3,S,S]. label: placeholder, int [N]. logits: of ``image``. bounds: what
    black and white are in it.
    """
    session: tf.Session
    image: tf.Tensor
    label: tf.Tensor
    logits: tf.Tensor
    bounds: Tuple[float, float] = (-1, 1)

    @property
    def channels_first(self):
        """bool: the layout."""
        return int(self.image.shape[1]) == 3

    def predict(self, image):
        """int [N], of np.ndarray images; -1 where the logits are not finite."""
        logits = self.session.run(self.logits, {self.image: image})
        return np.where(np.isfinite(logits).all(axis=1), logits.argmax(axis=1), -1)

    def cross_entropy(self):
        """float32 [N]; to be called where their graph is the current one."""
        return tf.nn.sparse_softmax_cross_entropy_with_logits(logits=self.logits, labels=self.label)


def tensors_of(net, bounds=(0, 1)):
    """``Tensors`` of RGB images float32 [N,S,S,3], for int64 labels.

    AutoAttack's adapter of graphs is ``utils_tf.ModelAdapter(t.logits, t.image, t.label, t.session, net.num_classes)``,
    made within ``with net.in_session.building():``.

    Args:
        net (sat.network.Network). bounds (tuple): what black and white are.
    """
    low, high = check_bounds(bounds)
    held, side = net.in_session, net.input_size
    with held.building():
        image = tf.placeholder(tf.float32, [None, side, side, 3])
        pixels = tf.reverse(image - low, [3]) * (255 / (high - low))
        logits = held.model.get_logits(image_preprocess(pixels, held.model.data_format, held.model.channels))
        return Tensors(held.session, image, tf.placeholder(tf.int64, [None]), logits, (low, high))
