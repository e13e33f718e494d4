"""What a network makes of the [-1, 1] in which attackers work, before its first layer."""
import tensorflow.compat.v1 as tf

# Means and standard deviations of the channels, RGB, in pixel levels, 0-255; None leaves [-1, 1] as it is.
INPUT_SCALINGS = {
    'sat': None,
    # EN release, for its checkpoints without adversarial training.
    'mean-std': ((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))}


def scale_input(image, scaling, style):
    """Images in [-1, 1], in the layout of ``style``, in the scaling of that name."""
    if INPUT_SCALINGS[scaling] is None:
        return image
    mean, std = (tf.reshape(tf.constant(values), style.per_axis(1, 1, 3)) for values in INPUT_SCALINGS[scaling])
    # In float32 also where the network computes in less.
    return tf.cast(((tf.cast(image, tf.float32) + 1) * (255 / 2) - mean) / std, image.dtype)
