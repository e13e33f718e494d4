"""The threat model: units, targets, and what counts as a success."""
import tensorflow.compat.v1 as tf

PIXEL = 2.0 / 255  # one pixel level in the [-1, 1] units that a network sees
NO_TARGET = -1  # target label of an image that no targeted attack was made on
# What a verdict on an attacked image is of: where the attack ended, or every point on its way, the start among them.
LAST_STEP, ANY_STEP = 'last step', 'success at any step'


def predicted_label(logits):
    """The most likely label, int32 [N]; -1 where the logits are not finite."""
    finite = tf.reduce_all(tf.math.is_finite(logits), axis=1)
    return tf.where_v2(finite, tf.argmax(logits, axis=1, output_type=tf.int32), -1)


def attack_succeeded(prediction, label, target):
    """bool [N]: a targeted attack succeeds where the target is predicted, an untargeted one where the label is not."""
    return tf.where_v2(tf.equal(target, NO_TARGET), tf.not_equal(prediction, label), tf.equal(prediction, target))
