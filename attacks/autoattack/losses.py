"""What the attacks raise, per image: functions of logits [N, classes] and labels int [N], float32 [N].

Gradients that come in from above are positive.
"""
import numpy as np
import tensorflow.compat.v1 as tf


def logit_of(logits, label):
    """The logit of ``label``, float32 [N]."""
    return tf.reduce_sum(tf.where_v2(_is(label, logits), logits, 0.0), axis=1)


def margin(logits, label):
    """By how much the logit of ``label`` exceeds all others; not above 0 where another label is predicted."""
    return logit_of(logits, label) - tf.reduce_max(tf.where_v2(_is(label, logits), -np.inf, logits), axis=1)


def cross_entropy(logits, label):
    """Cross entropy of ``label``. Its gradient is exact also where probabilities are too small for float32, if the
    gradient that comes in makes up for that."""
    chosen = _is(label, logits)

    @tf.custom_gradient
    def of_logits(logits):
        log_probability = tf.nn.log_softmax(logits)

        def gradient(slope):
            slope = slope[:, tf.newaxis]
            return tf.where_v2(chosen, slope * (tf.exp(log_probability) - 1), tf.exp(log_probability + tf.log(slope)))
        return -tf.reduce_sum(tf.where_v2(chosen, log_probability, 0.0), axis=1), gradient
    return of_logits(logits)


def dlr(logits, label):
    """Difference of logits ratio (AA Eq. 6), which does not change with the logits' scale; of 3 classes or more."""
    top = tf.nn.top_k(logits, 3).values
    return _ratio(-margin(logits, label), top[:, 0] - top[:, 2] + 1e-12)


def targeted_dlr(logits, label, target):
    """The same towards a label ``target`` (AA Eq. 7); of 4 classes or more."""
    top = tf.nn.top_k(logits, 4).values
    return _ratio(logit_of(logits, target) - logit_of(logits, label),
                  top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


@tf.custom_gradient
def _ratio(upper, lower):
    """``upper / lower`` [N]. Where the label is the third one, the DLR loss is 1 and flat: both parts' gradients must
    cancel to 0, as a step goes by the sign of what remains. TensorFlow's own are each divided in its way, and may not.
    """
    ratio = upper / lower

    def gradient(slope):
        slope /= lower
        return slope, -ratio * slope
    return ratio, gradient


def _is(label, logits):
    return tf.one_hot(label, tf.shape(logits)[1], True, False)
