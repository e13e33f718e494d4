"""Rectangles of JPEGs, decoded without the rest by libjpeg-turbo; the pixels are those of the whole image.

The library is compiled by `make setup`. Its functions run without Python's lock, in any number of threads.
"""
import ctypes
import functools
import os

import numpy as np

from native import c_library

LIBRARY = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'libjpeg_part.so')


@functools.lru_cache(maxsize=None)
def load_library():
    """Load the compiled functions, once.

    Raises:
        ValueError: as ``c_library.load``.
    """
    library = c_library.load('jpeg_part', LIBRARY)
    number, address = ctypes.c_int, ctypes.POINTER(ctypes.c_int)
    library.jpeg_part_size.argtypes = [ctypes.c_char_p, ctypes.c_size_t, address, address]
    library.jpeg_part_has_end.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.jpeg_part_decode.argtypes = [ctypes.c_char_p, ctypes.c_size_t] + 4 * [number] + [ctypes.c_void_p]
    return library


def size(content):
    """Height and width of an encoded image (bytes), from its header.

    None if it is no JPEG of which ``decode`` knows parts: those of grey or colour, of 2^30 pixels at most, without EXIF
    data, which may tell to turn the image.
    """
    height, width = ctypes.c_int(), ctypes.c_int()
    return (height.value, width.value) if load_library().jpeg_part_size(content, len(content), height, width) else None


def has_end(content):
    """Whether the data of a JPEG (bytes) go on to its end marker, as those of a file that was cut off do not."""
    return bool(load_library().jpeg_part_has_end(content, len(content)))


def decode(content, top, left, height, width):
    """A rectangle, in pixels, of an image that has a ``size``.

    Returns:
        uint8 [height,width,3] in BGR; None if it is not inside the image or libjpeg gives up.
    """
    part = np.empty((height, width, 3), np.uint8)
    found = load_library().jpeg_part_decode(content, len(content), top, left, height, width, part.ctypes.data)
    return part if found else None
