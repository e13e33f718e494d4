"""What a network makes of the [-1, 1] in which attackers work, before its first layer."""
import numpy as np
import tensorflow.compat.v1 as tf

# torchvision's, of images in [0, 1], here in pixel levels.
_IMAGENET = (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
# Means and standard deviations of the channels, RGB, in pixel levels, 0-255; None leaves [-1, 1] as it is.
INPUT_SCALINGS = {
    'sat': None,
    'mean-std': _IMAGENET,  # EN release, for its checkpoints without adversarial training; its word for 'imagenet'
    'unit': (3 * (0.0,), 3 * (255.0,)),
    'imagenet': _IMAGENET}


def channel_order(own, scaling):
    """'BGR' or 'RGB': what a network takes; ``own``: with the scaling 'sat'. ``scaling``: None is 'sat' too."""
    return own if INPUT_SCALINGS[scaling or 'sat'] is None else 'RGB'


def scale_input(image, scaling, style):
    """Images in [-1, 1], in the layout of ``style``, in the scaling of that name."""
    if INPUT_SCALINGS[scaling] is None:
        return image
    mean, std = (tf.reshape(tf.constant(values), style.per_axis(1, 1, 3)) for values in INPUT_SCALINGS[scaling])
    # In float32 also where the network computes in less.
    return tf.cast(((tf.cast(image, tf.float32) + 1) * (255 / 2) - mean) / std, image.dtype)


def as_affine(scaling):
    """The scaling as a map of [-1, 1]: factor and offset of each channel, float32 [3]; None where it leaves it."""
    if INPUT_SCALINGS[scaling] is None:
        return None
    mean, std = (np.array(values) for values in INPUT_SCALINGS[scaling])
    return np.float32(255 / 2 / std), np.float32((255 / 2 - mean) / std)


def zero_of(scaling):
    """The value in [-1, 1] that the scaling makes 0 of; None where the channels differ in it."""
    if INPUT_SCALINGS[scaling] is None:
        return 0.0
    values = {2 * mean / 255 - 1 for mean in INPUT_SCALINGS[scaling][0]}
    return values.pop() if len(values) == 1 else None
