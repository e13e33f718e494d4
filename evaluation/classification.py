"""What a network says that images show: a class for each, with its probability."""
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from attacks.threat import predicted_label
from ranks.gather import gather_rows
from ranks.terminal import bar

_COLUMNS = 3  # index, prediction, and the bits of the probability: int32, as ranks share them


class Classified(NamedTuple):
    """Of the images that could be read, arrays [N], ordered by index.

    Attributes:
        index (int): the image's place in its set. prediction (int): its class, -1 where the logits are not finite.
        probability (float32): of that class by the softmax of the logits; NaN where they are not finite.
    """
    index: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray


class Classifier:
    """Graph that classifies images. Build it on all ranks, where a new variable scope may reuse the network's
    variables.

    Args:
        model (AdvImageNetModel). ranks (Ranks).
    """

    def __init__(self, model, ranks):
        side = model.image_shape
        # Bytes of most data sets, but EfficientNet's resizing leaves fractions.
        self._image = tf.placeholder(tf.float32, [None, side, side, 3], name='image')
        logits = model.classify(self._image)
        self._found = predicted_label(logits), tf.reduce_max(tf.nn.softmax(logits), axis=1)
        with tf.name_scope('gather_results'):
            self._local = tf.placeholder(tf.int32, [None, _COLUMNS])
            self._all = gather_rows(ranks, self._local, 'classified_rows')

    def run(self, session, batches, show_progress):
        """Classify this rank's ``batches`` and gather what all ranks have found.

        Args:
            batches (ValidationBatches). show_progress (bool): draw a progress bar.
        Returns:
            Classified: the images of all ranks.
        """
        rows = [np.full([1, _COLUMNS], -1, np.int32)]  # a rank without images still takes part in the gathering
        with bar(len(batches), 'classification', show_progress) as progress:
            for image, _, index in batches:
                prediction, probability = session.run(self._found, {self._image: image})
                rows.append(np.stack([index, prediction, probability.view(np.int32)], axis=1)[index >= 0])
                progress.update()
        rows = session.run(self._all, {self._local: np.concatenate(rows)})
        rows = rows[rows[:, 0] >= 0]
        index, prediction, bits = rows[np.argsort(rows[:, 0], kind='stable')].T
        return Classified(index, prediction, np.ascontiguousarray(bits).view(np.float32))
