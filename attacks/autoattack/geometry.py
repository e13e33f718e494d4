"""Lengths and nearest points in the box of valid pixels; points are float32 [N, D], the box is [0, 1].

The published code sorts the breakpoints of the piecewise linear equations below. Here they are solved by bisection or
by Newton's method, which need neither a sort nor sums that run over all of an image's elements in float32.
"""
import tensorflow.compat.v1 as tf

NORMS = ('Linf', 'L2', 'L1')
_DUAL = {'Linf': 'L1', 'L2': 'L2', 'L1': 'Linf'}

_BISECTIONS = 32  # float32 has 24 binary digits
_NEWTON_STEPS = 60  # some five are taken


def length(move, norm):
    """Of each row of ``move``, float32 [N, 1]."""
    if norm == 'L2':
        return tf.sqrt(tf.reduce_sum(move ** 2, axis=1, keepdims=True))
    return (tf.reduce_max if norm == 'Linf' else tf.reduce_sum)(tf.abs(move), axis=1, keepdims=True)


def dual_length(gradient, norm):
    """How fast a step of length 1 in ``norm`` can climb along ``gradient``, float32 [N, 1]."""
    return length(gradient, _DUAL[norm])


def project_l1(centre, move, radius):
    """The point nearest to ``centre + move`` that is in the L1 ball and among valid pixels (MB Sec 3).

    Both at once: cut to one after the other, a move would lose length that the ball still has. ``radius``: float.
    """
    point = centre + move
    size = tf.abs(move)
    # Each element shrinks by at least what takes it back to valid pixels.
    forced = tf.maximum(0.0, -tf.minimum(1 - point, point))
    total = _sum(size)

    def shrink_by(threshold):
        return tf.minimum(tf.maximum(forced, threshold), size)

    excess = total - radius
    low, high = _bisect(lambda t: _sum(shrink_by(t)), excess, tf.reduce_max(size, axis=1, keepdims=True))
    # Between two neighbouring breakpoints the equation is linear: what shrinks by the threshold itself shares the rest.
    middle = (low + high) / 2
    moving = (forced < middle) & (size > middle)
    others = _sum(tf.where_v2(moving, 0.0, shrink_by(middle)))
    threshold = tf.math.divide_no_nan(excess - others, _sum(tf.cast(moving, tf.float32)))
    threshold = tf.minimum(tf.maximum(threshold, low), high)
    inside = _sum(size - forced) <= radius
    # In the published code's order: what moves back may miss the centre by a rounding error, and then counts as changed
    # when APGD asks how sparse a point is.
    return point - tf.sign(move) * tf.where_v2(inside, forced, shrink_by(threshold))


def move_to_plane(point, normal, excess, norm):
    """The shortest move, in ``norm``, from ``point`` to a hyperplane within the box (Croce and Hein 2020, FAB, Sec 3).

    Args:
        normal (tf.Tensor): float32 [N, D], of the plane. excess (tf.Tensor): float32 [N, 1], the inner product of
            ``normal`` with the point less that with the plane; either sign.
    Returns:
        tf.Tensor: float32 [N, D]; where the box does not reach the plane, the move to its nearest corner.
    """
    if norm != 'Linf':
        normal = tf.where_v2(tf.abs(normal) < 1e-8, 0.0, normal)  # the published code's; they would move for nothing
    normal *= tf.where_v2(excess < 0, -1.0, 1.0)
    excess = tf.abs(excess)
    weight = tf.abs(normal)
    reach = tf.maximum(tf.where_v2(normal < 0, 1 - point, point), 0.0)  # of an element, to its end of the box
    distance = (_steepest_first if norm == 'L1' else _all_at_once)(weight, reach, excess, norm)
    out_of_reach = excess >= _sum(weight * reach)
    return -tf.sign(normal) * tf.where_v2(out_of_reach, reach, distance)


def _all_at_once(weight, reach, excess, norm):
    """How far elements move: L-infinity all as far, L2 in proportion to their weights, until ``reach``."""
    speed = tf.ones_like(weight) if norm == 'Linf' else weight

    def moved(time):
        return tf.minimum(time * speed, reach)

    def newton_step(time, _):
        arrived = moved(time) >= reach
        rest = excess - _sum(tf.where_v2(arrived, weight * reach, 0.0))
        later = tf.math.divide_no_nan(rest, _sum(tf.where_v2(arrived, 0.0, weight * speed)))
        # The gain is concave in time: from 0, Newton's steps come to the solution from below.
        return tf.maximum(time, later), tf.reduce_any(later > time)

    time, _ = tf.while_loop(lambda _, going: going, newton_step, (tf.zeros_like(excess), tf.constant(True)),
                            maximum_iterations=_NEWTON_STEPS, back_prop=False)
    return moved(time)


def _steepest_first(weight, reach, excess, _):
    """How far elements move in L1: those of larger weight first, each as far as it can, the last one partly."""
    gain = weight * reach
    steepest = tf.reduce_max(weight, axis=1, keepdims=True)
    # Elements above ``steepest - depth`` are moved.
    low, high = _bisect(lambda depth: _sum(tf.where_v2(weight > steepest - depth, gain, 0.0)), excess, steepest)
    whole, part = weight > steepest - low, weight > steepest - high
    rest = excess - _sum(tf.where_v2(whole, gain, 0.0))
    share = tf.math.divide_no_nan(rest, _sum(tf.where_v2(part & ~whole, gain, 0.0)))
    return reach * tf.where_v2(whole, 1.0, tf.where_v2(part, tf.clip_by_value(share, 0.0, 1.0), 0.0))


def _bisect(increasing, wanted, upper):
    """``low``, ``high`` [N, 1] with ``increasing(low) < wanted <= increasing(high)``, if there are, in 0 ... upper."""
    def halve(low, high):
        middle = (low + high) / 2
        below = increasing(middle) < wanted
        return tf.where_v2(below, middle, low), tf.where_v2(below, high, middle)
    return tf.while_loop(lambda *_: True, halve, (tf.zeros_like(upper), upper), maximum_iterations=_BISECTIONS,
                         back_prop=False)


def _sum(x):
    return tf.reduce_sum(x, axis=1, keepdims=True)
