"""Reading one image."""
from typing import Optional, Tuple, Union

import cv2
import numpy as np

from data.stopwatch import stopwatch
from data.transparency import on_white
from native import jpeg_part

IMAGE_SUFFIXES = frozenset(['.jpeg', '.jpg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff'])  # in lower case
JPEG_START = b'\xff\xd8\xff'  # of a JPEG file's content


class Unreadable(Exception):
    """An image of a data set cannot be had; the message says which and, where more is known than that, why.

    Attributes:
        reason (str): why.
    """

    def __init__(self, name: str, reason: Optional[str] = None) -> None:
        self.reason = reason or 'cannot be decoded'
        super().__init__('{}: {}'.format(name, reason) if reason else 'cannot decode image {}'.format(name))


class Undecodable(Exception):
    """An image cannot be decoded; the message says why, where more is known than that."""


class Jpeg:
    """A JPEG of which ``image[top:bottom, left:right]`` decodes that part only; the bounds are inside the image.

    The part is an array with the very pixels that ``decode_image`` has there. Raises ``Undecodable`` where libjpeg
    gives up.

    Attributes:
        shape: (height, width, 3).
    """

    def __init__(self, content: bytes, height: int, width: int) -> None:
        self._content, self.shape = content, (height, width, 3)

    def __getitem__(self, part: Tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (side.indices(length) for side, length in zip(part, self.shape))
        with stopwatch.during('decode'):
            image = jpeg_part.decode(self._content, top, left, bottom - top, right - left)
        if image is None:
            raise Undecodable
        return image


def open_image(content: bytes, turned: bool = True) -> Union[Jpeg, np.ndarray]:
    """An image of which parts will be wanted, by slices of rows and columns.

    Args:
        content, turned: see ``decode_image``.
    Returns:
        Jpeg, or uint8 [H,W,3] in BGR where the format has to be decoded as a whole.
    Raises:
        Undecodable.
    """
    with stopwatch.during('decode'):
        check_whole(content)
        size = jpeg_part.size(content) if content.startswith(JPEG_START) else None
        return Jpeg(content, *size) if size else _decode(content, turned)


def check_whole(content: bytes) -> None:
    """Refuse a JPEG that was cut off: libjpeg would make up the rest, in grey. Other formats cannot be decoded then.

    Raises:
        Undecodable.
    """
    if content.startswith(JPEG_START) and not jpeg_part.has_end(content):
        raise Undecodable('the JPEG is truncated')


def read_content(path: str) -> bytes:
    """The bytes of an image file, as they are.

    Raises:
        Unreadable: the file is missing or cannot be read.
    """
    try:
        with open(path, 'rb') as source:
            return source.read()
    except OSError as error:
        raise Unreadable(path, error.strerror) from None


def decode_image(content: bytes, turned: bool = True) -> np.ndarray:
    """Decode an image; what is transparent is laid on white.

    Args:
        content (bytes): an encoded image of any format that OpenCV knows.
        turned (bool): as its EXIF data tell; else as it is stored.
    Returns:
        uint8 [H,W,3] in BGR.
    Raises:
        Undecodable: OpenCV cannot decode it, or it is a truncated JPEG.
    """
    check_whole(content)
    return _decode(content, turned)


def _decode(content: bytes, turned: bool) -> np.ndarray:
    how = cv2.IMREAD_COLOR if turned else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), how) if content else None
    except cv2.error:
        image = None
    if image is None:
        raise Undecodable
    return image if content.startswith(JPEG_START) else on_white(content, image)


def read_image(path: str) -> Optional[np.ndarray]:
    """Decode an image file.

    Returns:
        uint8 [H,W,3] in BGR, or None if the file is missing or holds no image that can be decoded.
    """
    try:
        return decode_image(read_content(path))
    except (Unreadable, Undecodable):
        return None
