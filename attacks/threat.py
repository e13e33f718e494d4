"""The threat model: units, what is true of an image, targets, and what counts as a success.

A truth is a distribution over classes, float32 [N, classes], as mixed images have it, or a label, int [N]. Right are
the classes that it gives the most; where these are several, each of them is.
"""
import tensorflow.compat.v1 as tf

PIXEL = 2.0 / 255  # one pixel level in the [-1, 1] units that a network sees
NO_TARGET = -1  # target label of an image that no targeted attack was made on
# What a verdict on an attacked image is of: where the attack ended, or every point on its way, the start among them; or
# that of those points where its loss was highest.
LAST_STEP, ANY_STEP, BEST_POINT = 'last step', 'success at any step', 'point of the highest loss'


def predicted_label(logits):
    """The most likely label, int32 [N]; -1 where the logits are not finite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.where_v2(finite, tf.argmax(logits, axis=1, output_type=tf.int32), -1)


def as_truth(truth):
    """A truth as all functions here take it: labels int32 [N], or distributions float32 [N, classes].

    Raises:
        ValueError: neither labels [N] nor distributions [N, classes].
    """
    truth = tf.convert_to_tensor(truth)
    labels = truth.dtype.is_integer
    truth.shape.assert_has_rank(1 if labels else 2)
    return tf.cast(truth, tf.int32 if labels else tf.float32)


def label_of(truth):
    """The right label, int32 [N]; of several the first."""
    return truth if _are_labels(truth) else tf.argmax(truth, axis=1, output_type=tf.int32)


def distribution_of(truth, classes):
    """float32 [N, classes]."""
    return tf.one_hot(truth, classes) if _are_labels(truth) else truth


def right_classes(truth, classes):
    """bool [N, classes]."""
    truth = distribution_of(truth, classes)
    return tf.equal(truth, tf.reduce_max(truth, axis=1, keepdims=True))


def cross_entropy(logits, truth):
    """float32 [N], of the network's distribution with the true one."""
    if _are_labels(truth):
        return tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=truth)
    return tf.nn.softmax_cross_entropy_with_logits_v2(logits=logits, labels=truth)


def is_wrong(prediction, truth):
    """bool [N]: whether a predicted label is no right one; -1 never is."""
    if _are_labels(truth):
        return tf.not_equal(prediction, truth)
    classes = tf.shape(truth)[1]
    return ~tf.reduce_any(right_classes(truth, classes) & tf.one_hot(prediction, classes, True, False), axis=1)


def attack_succeeded(prediction, truth, target):
    """bool [N]: a targeted attack succeeds where the target is predicted, an untargeted one where no right label is."""
    return tf.where_v2(tf.equal(target, NO_TARGET), is_wrong(prediction, truth), tf.equal(prediction, target))


def no_target(truth):
    """The target of an attack that aims at none, int32 [N]."""
    return tf.fill(tf.shape(label_of(truth)), NO_TARGET)


def _are_labels(truth):
    return truth.dtype.is_integer
