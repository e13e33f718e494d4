"""A network as a model of Foolbox, which itself takes networks of eager frameworks alone.

    model = foolbox_model(net)
    attack = in_session(foolbox.attacks.LinfPGD)(steps=10)
    _, adv, success = attack(model, images, labels, epsilons=8 / 255)

Arrays are NumPy's. Attacks without gradients work as they are; those that climb one loss by its gradient, PGD and its
kin, by ``in_session``.
"""
import eagerpy
import foolbox
import tensorflow.compat.v1 as tf
from foolbox.attacks.gradient_descent_base import BaseGradientDescent
from foolbox.types import Bounds

from sat.adapters.tensors import tensors_of


def foolbox_model(net, bounds=(0, 1)):
    """A network (sat.network.Network) for Foolbox: RGB images float32 [N,S,S,3] in ``bounds``."""
    tensors = tensors_of(net, bounds)
    with net.in_session.building():
        return SessionModel(tensors)


class SessionModel(foolbox.Model):
    """``Tensors`` as Foolbox's attacks call them; to be made where their graph is the current one."""

    def __init__(self, tensors):
        self._tensors = tensors
        self._gradient, = tf.gradients(tensors.cross_entropy(), tensors.image)

    @property
    def bounds(self):
        return Bounds(*self._tensors.bounds)

    def __call__(self, inputs):
        image, restore = eagerpy.astensor_(inputs)
        return restore(eagerpy.astensor(self._run(self._tensors.logits, image)))

    def gradient(self, image, labels):
        """That of the summed cross entropy, for eagerpy tensors."""
        return eagerpy.astensor(self._run(self._gradient, image, {self._tensors.label: labels.raw}))

    def _run(self, fetch, image, feed=()):
        return self._tensors.session.run(fetch, {self._tensors.image: image.raw, **dict(feed)})


class _InSession:
    """Takes the gradient from the session: both methods are those that Foolbox lets its users override."""

    def get_loss_fn(self, model, labels):
        return lambda image: model.gradient(image, labels)

    def value_and_grad(self, loss_fn, x):
        return None, loss_fn(x)  # attacks look at the gradient alone


def in_session(attack):
    """A class of Foolbox's gradient attacks, as one that attacks a ``SessionModel``.

    Raises:
        ValueError: it has other losses than the cross entropy, or more than its gradient's steps.
    """
    if not issubclass(attack, BaseGradientDescent):
        raise ValueError("{}: only Foolbox's attacks by gradient steps, such as LinfPGD, can take their gradients from "
                         'a session; those without gradients need nothing'.format(attack.__name__))
    return type(attack.__name__, (_InSession, attack), {'__doc__': attack.__doc__})
