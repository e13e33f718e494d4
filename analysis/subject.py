"""A network with its weights, and what it says of images that it is judged on."""
from typing import NamedTuple, Optional

import numpy as np
import tensorflow.compat.v1 as tf

from adv_model import PREDICTION
from sat.in_session import ADVERSARIAL, LOSS, MARGIN, InSession, parts_of
from smooth_activations import backward_slope


class Outcome(NamedTuple):
    """What a network says of images, attacked or not; arrays over the images.

    prediction: int32, -1 where the logits are not finite. standing: bool, whether it is the true label. loss: cross
    entropy of the true label. margin: its logit less the largest other one. adv: float32 [N,S,S,3], the attacked images
    as ``Images.pixels``, or None.
    """
    prediction: np.ndarray
    standing: np.ndarray
    loss: np.ndarray
    margin: np.ndarray
    adv: Optional[np.ndarray] = None


class Subject(InSession):
    """A network in a graph and a session of its own.

    Args:
        name (str): what it is called in tables. model, batch, make_session: see ``InSession``.
        attack_gradient (str): see ``AdvImageNetModel.get_inference_func``.
    """

    def __init__(self, name, model, batch, make_session=tf.Session, attack_gradient=None):
        super().__init__(model, batch, make_session)
        self.name, self.attack_gradient = name, attack_gradient
        with self.building(), backward_slope(attack_gradient):  # as an attacker sees it
            loss = self.say_of(model.get_logits(self.image), {})[LOSS]
            gradient, = tf.gradients(tf.reduce_sum(loss), self.image)
            gradient = tf.zeros_like(self.image) if gradient is None else gradient
            self._zero_gradient = tf.reduce_all(tf.equal(gradient, 0), axis=[1, 2, 3])

    @classmethod
    def open(cls, name, args):
        """The network and weights of resolved flags of ``main.py --eval``; raises: see ``parts_of``."""
        return cls(name, *parts_of(args), args.attack_gradient)

    def judge(self, images, attacker=None, keep=False):
        """Look at ``images``, attacked by ``attacker`` (None: as they are).

        Args:
            attacker (Attacker).
            keep (bool): keep the attacked images.
        Returns:
            Outcome.
        """
        tensors, feed = (self.clean, {}) if attacker is None else self.under(attacker, self.attack_gradient)
        found = self.run({name: tensors[name] for name in (PREDICTION, LOSS, MARGIN, *[ADVERSARIAL] * keep)},
                         self._fed(images), feed)
        prediction = found[PREDICTION]
        return Outcome(prediction, prediction == images.label, found[LOSS], found[MARGIN], found.get(ADVERSARIAL))

    def zero_gradients(self, images):
        """bool [N]: whether the loss's gradient is exactly zero in all of an image."""
        return self.run({'zero': self._zero_gradient}, self._fed(images))['zero']

    def _fed(self, images):
        return {self.pixels: images.pixels, self.label: images.label, self.index: images.index}
