"""Iterations on the images of a batch that still stand: one that has fallen stays as it is and costs nothing more."""
import tensorflow.compat.v1 as tf


def until_success(one_step, given, state, num_iter):
    """Iterate on each image until it succeeds, at most ``num_iter`` times.

    Every iteration gathers the images that still stand into a batch of their own, which shrinks. A CPU's time falls
    with it, and a GPU's as long as the rest fill it; a robust network keeps about half of a batch to the end, so that
    putting fresh images in the gaps would win little more, for a state of more images than a batch has. The size of a
    batch is known in the run alone: this loop is not for XLA, which would compile it for each size anew.

    Args:
        one_step: (one tensor for each of ``given``, then of ``state``, of M images) -> whether each succeeds before
            the step, bool [M], and their state after it.
        given (list of tf.Tensor): [N, ...], what steps read.
        state (list of tf.Tensor): [N, ...], what they change, at first.
        num_iter (int or tf.Tensor).
    Returns:
        list of tf.Tensor: the state [N, ...], of an image that succeeds as it was then.
    """
    def body(number, rows, *state):
        succeeded, moved = one_step(*(tf.gather(value, rows) for value in [*given, *state]))
        stands = ~succeeded
        rows = tf.boolean_mask(rows, stands)
        return [number + 1, rows] + [
            tf.tensor_scatter_nd_update(before, rows[:, tf.newaxis], tf.boolean_mask(after, stands))
            for before, after in zip(state, moved)]

    _, _, *state = tf.while_loop(
        lambda number, rows, *_: (number < num_iter) & (tf.size(rows) > 0), body,
        [tf.constant(0), tf.range(tf.shape(state[0])[0])] + state,
        shape_invariants=[tf.TensorShape([]), tf.TensorShape([None])] + [value.shape for value in state],
        back_prop=False, parallel_iterations=1, name='attack_loop')
    return state
