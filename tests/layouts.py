"""Arrays in both layouts, for the tests of the graph rooms."""
import numpy as np

LAYOUTS = ('NHWC', 'NCHW')


def to_layout(x, data_format):
    return x if data_format == 'NHWC' else np.transpose(x, [0, 3, 1, 2])


def to_nhwc(x, data_format):
    return x if data_format == 'NHWC' else np.transpose(x, [0, 2, 3, 1])


def normal(*shape, seed=0):
    return np.random.RandomState(seed).standard_normal(shape)
