"""The batch stage: what becomes of a whole batch before a step attacks it and takes it in parts.

A stage is a function (image uint8 [N,S,S,3], label int32 [N], seeds int64 [N,2]) -> (image, truth). ``truth`` is what
the attack is told and the loss is of: labels int32 [N], or float32 [N,classes], of each image a distribution over the
classes. Labels stay labels: SAT's attack leads away from the label itself, and its loss alone is of smoothed ones. A
stage that mixes smooths its distributions itself. Random numbers come from ``seeds``, an image's from its own.
"""
import tensorflow.compat.v1 as tf


def as_it_is(image, label, seeds):
    """The stage of the recipes that mix nothing (SAT, FD and EN releases)."""
    return image, label


def smoothed(label, classes, smoothing):
    """Labels int [N] as distributions [N,classes]: onehot * (1 - s) + s / classes (1H Sec 5.1, s = 0.1)."""
    return tf.one_hot(label, classes, on_value=1.0, off_value=0.0) * (1 - smoothing) + smoothing / int(classes)
