"""Foolbox's gradient attacks on a graph in a session; Foolbox itself takes networks of eager frameworks alone."""
import eagerpy
import foolbox
from foolbox import attacks
from foolbox.types import Bounds


class SessionModel(foolbox.Model):
    """A ``Network`` as Foolbox's attacks call it, on NumPy arrays.

    Args:
        network (Network). gradient (tf.Tensor): of the summed cross entropy, with respect to ``network.image``.
    """
    bounds = Bounds(-1, 1)

    def __init__(self, network, gradient):
        self._network, self._gradient = network, gradient

    def __call__(self, inputs):
        image, restore = eagerpy.astensor_(inputs)
        return restore(eagerpy.astensor(self._run(self._network.logits, image)))

    def gradient(self, image, labels):
        """Of the loss, for eagerpy tensors."""
        return eagerpy.astensor(self._run(self._gradient, image, {self._network.label: labels.raw}))

    def _run(self, fetch, image, feed=()):
        return self._network.session.run(fetch, {self._network.image: image.raw, **dict(feed)})


class _InSession:
    """Takes the gradient from the session: both methods are those that Foolbox lets its users override."""

    def get_loss_fn(self, model, labels):
        return lambda image: model.gradient(image, labels)

    def value_and_grad(self, loss_fn, x):
        return None, loss_fn(x)  # attacks look at the gradient alone


class LinfPGD(_InSession, attacks.LinfProjectedGradientDescentAttack):
    """See ``_InSession``."""


class L2PGD(_InSession, attacks.L2ProjectedGradientDescentAttack):
    """See ``_InSession``."""


class L1PGD(_InSession, attacks.SparseL1DescentAttack):
    """See ``_InSession``."""


class LinfFGSM(_InSession, attacks.LinfFastGradientAttack):
    """See ``_InSession``."""


class L2FGSM(_InSession, attacks.L2FastGradientAttack):
    """See ``_InSession``."""


PGD = {'Linf': LinfPGD, 'L2': L2PGD, 'L1': L1PGD}
FGSM = {'Linf': LinfFGSM, 'L2': L2FGSM}
