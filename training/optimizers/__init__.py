"""The optimizers that ``--optimizer`` names: each a function and its entry in ``OPTIMIZERS``."""
from typing import Callable, Dict, NamedTuple, Tuple

import tensorflow.compat.v1 as tf

from training.optimizers.adamw import adamw
from training.optimizers.decay import COUPLED, CoupledDecay, Decay, DecoupledDecay, half_squares
from training.optimizers.rates import TwoRates
from training.optimizers.released import momentum, rmsprop

INITIAL_LEARNING_RATE = 0.1  # SAT and FD releases


class Optimizer(NamedTuple):
    """All that is known of an optimizer.

    make: (learning rate (scalar tf.Tensor or tf.Variable), settings (settings.update.Update)) -> tf.train.Optimizer;
        a third argument, if it ``decays``, is the weight decay (``Decay``).
    warmup_start (float): learning rate from which a warm-up begins, where the rate at its end is higher.
    variables (tuple of str): names of those that it keeps, each behind the name of the weight that it belongs to, if
        it belongs to one. With ``--classifier-rate`` there are two optimizers, of which the second has '_1' behind the
        names of those that belong to no weight.
    decoupled (bool): weight decay shrinks the weights themselves, see ``DecoupledDecay``, and is no part of the loss.
    decays (bool): the optimizer itself adds the gradient of the weight decay; else that is ``CoupledDecay``'s.
    """
    make: Callable
    warmup_start: float
    variables: Tuple[str, ...] = ()
    decoupled: bool = False
    decays: bool = False


# 1H Sec 2.2: with momentum the warm-up starts from 0.1, where the rate is higher. EN release: from 0.
OPTIMIZERS: Dict[str, Optimizer] = {
    'momentum': Optimizer(momentum, 0.1, ('Momentum',), decays=True),
    'rmsprop': Optimizer(rmsprop, 0.0, ('RMSProp', 'RMSProp_1')),
    'adamw': Optimizer(adamw, 0.0, ('AdamW', 'AdamW_1', 'beta1_power', 'beta2_power'), decoupled=True),
}


def make_optimizer(name, settings, weight_decay, decayed, classifier=None):
    """The optimizer ``name``, one of ``OPTIMIZERS``, on the variable `learning_rate`, which the schedule sets.

    Args:
        settings (settings.update.Update): for options of its own, if it has any, and the rate of the classifier; None
            for an optimizer without either.
        weight_decay (float), decayed (str): see ``coupled_decay``.
        classifier (str): regular expression of the whole names of variables that may have a rate of their own.
    """
    learning_rate = tf.get_variable('learning_rate', initializer=INITIAL_LEARNING_RATE, trainable=False)
    tf.summary.scalar('learning_rate-summary', learning_rate)
    entry = OPTIMIZERS[name]

    decay = Decay(weight_decay, decayed)

    def at(rate):
        if entry.decays:
            return entry.make(rate, settings, decay)
        optimizer = entry.make(rate, settings)
        return DecoupledDecay(optimizer, rate * weight_decay, decayed) if entry.decoupled else \
            CoupledDecay(optimizer, decay)
    factor = settings and settings.classifier_rate
    return at(learning_rate) if factor is None else TwoRates(at(learning_rate), at(learning_rate * factor), classifier)


def coupled_decay(name, weight_decay, decayed):
    """The part of the loss that is weight decay, 0 with an optimizer that decays the weights apart from it.

    Args:
        name (str): of ``OPTIMIZERS``. weight_decay (float): factor of half the sum of the squared weights.
        decayed (str): regular expression of the decayed variables' names.
    """
    if OPTIMIZERS[name].decoupled:
        return tf.constant(0.0, name=COUPLED)
    return half_squares(weight_decay, decayed)


def is_of_optimizer(name):
    """bool: whether the variable ``name`` is one that some optimizer keeps."""
    own = {variable for entry in OPTIMIZERS.values() for variable in entry.variables}
    last = name.rpartition('/')[2]
    return last in own or (last == name and last.endswith('_1') and last[:-len('_1')] in own)


def warmup_starts():
    """From where each optimizer's warm-up begins, in words."""
    return ', '.join('with {} from {:g}{}'.format(
        name, entry.warmup_start, ' to rates above it' if entry.warmup_start else '')
        for name, entry in OPTIMIZERS.items())
