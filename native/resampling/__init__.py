"""Resizing and warping of uint8 images [H,W,3] with Pillow's values, which OpenCV's functions do not have.

The library is compiled by `make setup`. Its functions run without Python's lock, in any number of threads.
"""
import ctypes
import functools
import os

import numpy as np

from native import c_library

KERNELS = ('bicubic', 'bilinear')  # in the order of those in resampling.c
LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'libresampling.so')


@functools.lru_cache(maxsize=None)
def load_library():
    """Load the compiled functions, once.

    Raises:
        ValueError: as ``c_library.load``.
    """
    library = c_library.load('resampling', LIBRARY)
    number, address = ctypes.c_int, ctypes.c_void_p
    library.resampling_resize.argtypes = [number, address] + 8 * [number] + [address]
    library.resampling_warp.argtypes = [address, number, number, address, address]
    library.resampling_warp.restype = None
    return library


def resize(image, height, width, window=None, kernel='bicubic'):
    """``PIL.Image.resize`` with BICUBIC or BILINEAR: antialiased, in two passes, each rounded to 8 bits.

    The width comes first, as in all Pillows before 13, with which the published networks were trained. That one begins
    with the height where it shrinks far more, and then some values differ by a level.

    Args:
        image (np.ndarray): uint8 [H,W,3]. height, width (int): new size in pixels.
        window (tuple): (top, left, height, width) of the new image, inside it, where only that part is wanted.
        kernel (str): one of ``KERNELS``.
    Returns:
        uint8 [height,width,3], or those of ``window``.
    """
    top, left, rows, columns = window or (0, 0, height, width)
    assert min(image.shape[:2]) > 0 < min(rows, columns), (image.shape, window)
    assert 0 <= top <= height - rows and 0 <= left <= width - columns, (height, width, window)
    image, out = _plain(image), np.empty((rows, columns, 3), np.uint8)
    sizes = *image.shape[:2], height, width, top, left, rows, columns
    if not load_library().resampling_resize(KERNELS.index(kernel), image.ctypes.data, *sizes, out.ctypes.data):
        raise MemoryError
    return out


def warp(image, matrix):
    """``PIL.Image.transform`` with AFFINE and BICUBIC, which is not antialiased and truncates; black outside.

    Args:
        image (np.ndarray): uint8 [H,W,3].
        matrix (sequence of 2 x 3 numbers): where in ``image`` the place (x, y, 1) of the result is; pixel (0, 0) has
            its centre at (1/2, 1/2).
    Returns:
        uint8 [H,W,3].
    """
    image, matrix = _plain(image), np.ascontiguousarray(matrix, np.float64)
    assert matrix.shape == (2, 3) and np.abs(matrix).max() < 1e6, matrix
    out = np.empty_like(image)
    load_library().resampling_warp(image.ctypes.data, *image.shape[:2], matrix.ctypes.data, out.ctypes.data)
    return out


def _plain(image):
    """``image``, row by row in memory."""
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, (image.dtype, image.shape)
    return np.ascontiguousarray(image)
