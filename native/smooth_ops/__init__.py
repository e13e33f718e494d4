"""Activations, their gradients and parts of layers as one TensorFlow op each, for CPUs: float32 or bfloat16.

The library is compiled by `make setup`. It has its loops for several instruction sets and takes the best that the
processor knows; SMOOTH_OPS_INSTRUCTIONS=base, avx2, avx512 or avx512bf16 in the environment
limits them, to compare.
"""
import functools
import os

from native import c_library, op_library

FOLDER = os.path.dirname(os.path.abspath(__file__))


@functools.lru_cache(maxsize=None)
def load_op_library():
    """Load the compiled ops, once.

    Returns:
        module: has the op wrappers ``smooth_activation``, ``smooth_activation_grad``, ``smooth_max_pool_grad``,
        ``smooth_depthwise_grad``, ``smooth_channel_sums``, ``smooth_channel_affine``, ``smooth_layer_norm``,
        ``smooth_layer_norm_grad``, ``smooth_layer_norm_parameters_grad``, ``smooth_depthwise``,
        ``smooth_depthwise_kernel_grad``, ``smooth_attention``, ``smooth_attention_grad``, ``smooth_packed_weights``,
        ``smooth_convolution``, ``smooth_convolution_grad``, ``smooth_winograd_weights``, ``smooth_winograd``,
        ``smooth_batch_norm``, ``smooth_batch_norm_grad`` and ``smooth_momentum``.
    Raises:
        ImportError: the library has not been built, or was built for another TensorFlow.
    """
    return op_library.load(FOLDER)


def has_fast_products():
    """Whether ``smooth_convolution`` is faster than oneDNN on this processor: with avx512_bf16 and without AMX.

    Raises:
        ImportError: as ``load_op_library``.
    """
    return bool(_library().SmoothOpsHasFastProducts())


def has_fast_winograd():
    """Whether ``smooth_winograd`` is faster than oneDNN on this processor: with AVX-512.

    Raises:
        ImportError: as ``load_op_library``.
    """
    return bool(_library().SmoothOpsHasFastWinograd())


def _library():
    load_op_library()
    import tensorflow as tf  # not at the top, as in op_library
    return c_library.load('smooth_ops', op_library.library_path(FOLDER, tf.__version__))
