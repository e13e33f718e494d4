"""A step's gradient in parts, one after another, so that the memory is that of one part."""
import tensorflow.compat.v1 as tf
from tensorpack.tfutils.collection import freeze_collection


def mean_over_parts(judge, inputs, parts):
    """Means of ``judge``'s scalars over equal parts of a batch.

    Args:
        judge: (part of each input) -> list of scalar tensors, of which the first is the loss. Called more than once;
            its update ops run with each part, in order.
        inputs (list of tf.Tensor): [N, ...], N a multiple of ``parts``.
        parts (int): at least 1.
    Returns:
        list of tf.Tensor: scalars. The first can be differentiated by the trainable variables, and by nothing else; its
        gradient, the mean of the parts' gradients, is there with its value.
    """
    with freeze_collection([tf.GraphKeys.UPDATE_OPS]):
        # A loop's variables must be there before it; of these ops nothing is ever run.
        count = len(judge(*[x[:1] for x in inputs]))
    variables = tf.trainable_variables()
    size = tf.shape(inputs[0])[0] // parts
    updates = tf.get_collection_ref(tf.GraphKeys.UPDATE_OPS)

    def one_part(number, sums, gradients):
        before = len(updates)
        values = judge(*[x[number * size:(number + 1) * size] for x in inputs])
        own = tf.gradients(values[0], variables)
        here = updates[before:]
        del updates[before:]  # ops inside a loop cannot be run from outside of it
        with tf.control_dependencies(here):
            return (number + 1, [s + v for s, v in zip(sums, values)],
                    [g if o is None else g + o for g, o in zip(gradients, own)])

    start = tf.constant(0), [tf.constant(0.0)] * count, [tf.zeros(v.shape, v.dtype.base_dtype) for v in variables]
    _, sums, gradients = tf.while_loop(lambda *_: True, one_part, start, maximum_iterations=parts, back_prop=False,
                                       parallel_iterations=1, name='parts')

    @tf.custom_gradient
    def differentiable(value, *_):
        return tf.identity(value), lambda dy: [None] + [dy * g / parts for g in gradients]

    means = [s / parts for s in sums]
    return [differentiable(means[0], *[v.read_value() for v in variables])] + means[1:]
