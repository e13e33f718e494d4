"""Activations, their gradients and parts of layers as one TensorFlow op each, for CPUs: float32 or bfloat16.

The library is compiled by `make setup`. It has its loops for several instruction sets and takes the best that the
processor knows; SMOOTH_OPS_INSTRUCTIONS=base, avx2 or avx512 in the environment limits them, to compare.
"""
import functools
import os

LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'libsmooth_ops.so')
FUNCTIONS = ('relu', 'silu', 'softplus', 'gelu', 'gelu_erf', 'celu', 'mish')


@functools.lru_cache(maxsize=None)
def load_op_library():
    """Load the compiled ops, once.

    Returns:
        module: has the op wrappers ``smooth_activation``, ``smooth_activation_grad``, ``smooth_max_pool_grad``,
        ``smooth_depthwise_grad``, ``smooth_channel_sums`` and ``smooth_channel_affine``.
    Raises:
        ImportError: the library has not been built, or was built for another TensorFlow.
    """
    if not os.path.isfile(LIBRARY):
        raise ImportError('smooth_ops: {} has not been built; run `make setup`'.format(LIBRARY))
    import tensorflow as tf
    try:
        return tf.load_op_library(LIBRARY)
    except tf.errors.NotFoundError as e:
        raise ImportError('smooth_ops: {} does not fit TensorFlow {}; delete it and run `make setup` ({})'.format(
            LIBRARY, tf.__version__, e.message)) from e
