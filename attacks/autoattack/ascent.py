"""One run of APGD (AA Sec 3, MB Sec 4), whatever the loss and the start: the loop that all its forms share."""
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from attacks.autoattack.attacker import choose


class Result(NamedTuple):
    """Of one run; ``best`` [N, D] is the point of the highest loss, ``best_loss`` [N], ``adv`` [N, D] the last one with
    a wrong label, ``right`` bool [N] whether there was none."""
    best: tf.Tensor
    best_loss: tf.Tensor
    adv: tf.Tensor
    right: tf.Tensor

    @classmethod
    def before(cls, start):
        """Of no point so far; ``start`` [N, D] is where the first one will be."""
        rows = tf.shape(start)[:1]
        return cls(start, tf.fill(rows, -np.inf), start, tf.fill(rows, True))

    def after(self, point, loss, right):
        """The result with ``point`` [N, D], of ``loss`` [N] and with the ``right`` label or not [N]; and whether that
        is the best one now, bool [N]."""
        better = loss > self.best_loss
        return Result(choose(better, point, self.best), tf.where_v2(better, loss, self.best_loss),
                      choose(right, self.adv, point), self.right & right), better


def ascend(evaluate, steps, start, sparse_start=False, judge_last=None):
    """One run of ``steps.num_iter`` iterations.

    Args:
        evaluate: point [N, D] -> its loss [N], whether its label is right [N], and the gradient [N, D] times
            ``GRADIENT_SCALE``.
        steps: one of ``STEPS``. start (tf.Tensor): float32 [N, D].
        sparse_start (bool): in L1, take the first step's sparsity from the start.
        judge_last: point -> its loss and whether its label is right, for the last one, by whose gradient no step goes.
            Without it ``evaluate`` sees that one too, and a single copy of the network in the graph sees them all.
    Returns:
        Result.
    """
    # Point 0 is the start, point i the one that iteration i - 1 of the published code comes to.
    def one_point(number, point, before, best_gradient, result, size, *memory):
        loss, right, gradient = evaluate(point)
        result, better = result.after(point, loss, right)
        best_gradient = choose(better, gradient, best_gradient)
        size, restart, memory = steps.adapt(number, size, loss, result.best, result.best_loss, *memory)
        point, gradient = choose(restart, result.best, point), choose(restart, best_gradient, gradient)
        following = steps.step(number, point, before, gradient, size, *memory)
        return [number + 1, following, point, best_gradient, result, size, *memory]

    begin = [tf.constant(0), start, start, tf.zeros_like(start), Result.before(start),
             *steps.first_size_and_memory(start if sparse_start else None)]
    with_gradient = steps.num_iter + int(judge_last is None)
    _, last, _, _, result, *_ = tf.while_loop(
        lambda number, *_: number < with_gradient, one_point, begin, back_prop=False, parallel_iterations=1,
        name='apgd')
    return result.after(last, *judge_last(last))[0] if judge_last else result
