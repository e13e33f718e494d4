"""Reading one image."""
import cv2
import numpy as np

IMAGE_SUFFIXES = frozenset(['.jpeg', '.jpg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff'])  # in lower case
JPEG_START = b'\xff\xd8\xff'  # of a JPEG file's content


class Unreadable(Exception):
    """An image of a data set cannot be had; the message says which and, where more is known than that, why."""

    def __init__(self, name, reason=None):
        super().__init__('{}: {}'.format(name, reason) if reason else 'cannot decode image {}'.format(name))


def read_content(path):
    """The bytes of an image file, as they are.

    Raises:
        Unreadable: the file is missing or cannot be read.
    """
    try:
        with open(path, 'rb') as source:
            return source.read()
    except OSError:
        raise Unreadable(path) from None


def decode_image(content):
    """Decode an image.

    Args:
        content (bytes): an encoded image of any format that OpenCV knows.
    Returns:
        uint8 [H,W,3] in BGR, or None if OpenCV cannot decode it.
    """
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    except cv2.error:
        return None


def read_image(path):
    """Decode an image file.

    Returns:
        uint8 [H,W,3] in BGR, or None if the file is missing or holds no image that OpenCV can decode.
    """
    try:
        return decode_image(read_content(path))
    except Unreadable:
        return None
