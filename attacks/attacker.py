"""What an attacker is, to all that use one."""
from typing import Any, Callable, Dict, Hashable, NamedTuple, Optional, Protocol, Sequence, Union

import tensorflow.compat.v1 as tf

from attacks.balls import BALLS
from attacks.threat import LAST_STEP

GetLogits = Callable[[tf.Tensor], tf.Tensor]  # images -> logits [N, classes], differentiable
Number = Union[int, float, tf.Tensor]


class Lengths(NamedTuple):
    """How far an attack goes: numbers, or scalar tensors (int32, float32, float32).

    num_iter: steps. epsilon: radius, step_size: of one step; in pixel levels, 0-255.
    """
    num_iter: Number
    epsilon: Number
    step_size: Number

    @classmethod
    def placeholders(cls):
        """Lengths to be fed."""
        return cls(*(tf.placeholder(kind, [], name=name) for name, kind in zip(
            cls._fields, (tf.int32, tf.float32, tf.float32))))

    def feed(self, lengths):
        """What to feed to ``placeholders``: ``lengths`` of numbers, or nothing for None."""
        return dict(zip(self, lengths)) if lengths else {}


class Attacked(NamedTuple):
    """image: like the one attacked, near it and in [-1, 1]. target: int32 [N], NO_TARGET where no label was aimed at.
    succeeded_before: bool [N], whether the attack had succeeded at a point that it then left."""
    image: tf.Tensor
    target: tf.Tensor
    succeeded_before: tf.Tensor


class Attacker(Protocol):
    """Images [N,...] that a network gets wrong, near the given ones.

    Attributes:
        name (str): tells attack, number of steps and norm; those of an evaluation differ in it.
        norm (str), epsilon (float): the threat model; epsilon in pixel levels, 0-255.
        verdict (str): what the returned image stands for, LAST_STEP, ANY_STEP or BEST_POINT.
        lengths (Lengths): its own, in whose place ``attack`` takes others; None if it takes no others.
        one_after_another (bool): each of ``parts`` on the images that still stand after those before.
    """
    name: str
    norm: str
    epsilon: float
    verdict: str = LAST_STEP
    lengths: Optional[Lengths] = None
    one_after_another: bool = False

    @property
    def parts(self) -> Sequence['Attacker']:
        """The attackers that an evaluation judges with, each in passes of its own; none for no attack."""
        return [self]

    @property
    def graph_key(self) -> Hashable:
        """Equal for attackers of which one graph serves all, since they differ in name and lengths alone."""
        return self

    def describe(self) -> Dict[str, Any]:
        """The attack's parameters, JSON-ready; lengths in pixel levels, 0-255."""
        ...

    def attack(self, image: tf.Tensor, truth: tf.Tensor, get_logits: GetLogits, seeds: Optional[tf.Tensor] = None,
               lengths: Optional[Lengths] = None) -> Attacked:
        """Attack a batch.

        Args:
            image (tf.Tensor): float32 [N,H,W,3] or [N,3,H,W] in [-1, 1].
            truth (tf.Tensor): distribution over classes, float32 [N, classes], or labels, int [N]; see ``threat``.
            get_logits: image -> logits [N, classes], differentiable.
            seeds (tf.Tensor): int64 [N, 2] from ``image_seeds``; without them every image has the seed of its place
                in the batch, the same in each run of the graph.
            lengths (Lengths): in place of the attacker's own.
        """
        ...


def check(owner, option, value, valid, wanted):
    """Refuse an argument of ``owner`` (str).

    Raises:
        ValueError: it is not ``valid``; says what was ``wanted``.
    """
    if not valid:
        raise ValueError('{}: {} must be {}, not {}'.format(owner, option, wanted, value))


def check_ball(owner, norm, epsilon):
    """Refuse a norm or radius of ``owner`` (str).

    Raises:
        ValueError: there is no such norm; the radius is none, in pixel levels.
    """
    check(owner, 'norm', norm, norm in BALLS, 'one of {}'.format(', '.join(BALLS)))
    check(owner, 'epsilon', epsilon, 0 < epsilon < float('inf') and (norm != 'Linf' or epsilon <= 255),
          'a radius in (0, 255] pixel levels' if norm == 'Linf' else 'a positive number of pixel levels')


def refuse_lengths(name, lengths):
    """For an attacker that takes no lengths but its own.

    Raises:
        ValueError: some are given.
    """
    if lengths is not None:
        raise ValueError('{}: an attack of fixed lengths'.format(name))
