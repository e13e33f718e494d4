"""What of an image is transparent, laid on white. OpenCV alone drops the alpha channel and shows what lies under it."""
import struct
from typing import Any, Optional, Tuple, Union

import cv2
import numpy as np

_PNG_START, _TIFF_STARTS = b'\x89PNG\r\n\x1a\n', (b'II*\0', b'MM\0*')
_GREY, _GREY_ALPHA, _COLOUR_ALPHA = 0, 4, 6  # PNG's colour types
_WEBP_ALPHA = 0x10  # among the flags of an extended WebP file
_LOSSLESS_ALPHA = 0x10  # in the last byte of the header of a lossless WebP image
# As EXIF data may tell to turn an image, which OpenCV does unless the alpha channel is asked for.
_TURNS = [lambda a, k=k, mirror=mirror: np.rot90(a[:, ::-1] if mirror else a, k) for mirror in (0, 1) for k in range(4)]


def on_white(content: bytes, image: np.ndarray) -> np.ndarray:
    """Lay an image on white.

    Args:
        content (bytes): the encoded image; PNG, WebP and TIFF (of 8 or 16 bits, four channels) may be transparent.
        image: uint8 [H,W,3], what OpenCV decodes from it in colour.
    Returns:
        uint8 [H,W,3]: ``image`` itself where nothing is transparent.
    """
    alpha, multiplied = _alpha(content)
    if alpha is None or (alpha == 255).all():
        return image
    alpha = _turned(content, alpha, image)[..., np.newaxis].astype(np.int32)
    laid = np.minimum(image + (255 - alpha), 255) if multiplied else blend(image, alpha)
    return laid.astype(np.uint8)


def blend(image: Any, alpha: Any) -> Any:
    """Whole numbers 0-255 over white, rounded; of NumPy or TensorFlow, int32."""
    return (image * alpha + 255 * (255 - alpha) + 127) // 255


def _alpha(content: bytes) -> Tuple[Optional[np.ndarray], bool]:
    """uint8 [H,W] or None, and whether the colours are multiplied by it already."""
    png, tiff = content.startswith(_PNG_START), content.startswith(_TIFF_STARTS)
    colour_type, key = _png_transparency(content) if png else (None, None)
    if not (colour_type in (_GREY_ALPHA, _COLOUR_ALPHA) or key is not None or tiff or _webp_has_alpha(content)):
        return None, False
    whole = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if key is not None and colour_type == _GREY:  # one level stands for transparency, which OpenCV does not look at
        return np.where(whole == key, 0, 255).astype(np.uint8), False
    if whole is None or whole.ndim < 3 or whole.shape[2] < 4:
        return None, False
    alpha = whole[..., 3]
    # libtiff multiplies the colours of 8 bits.
    return (alpha >> 8 if alpha.dtype == np.uint16 else alpha).astype(np.uint8), tiff and alpha.dtype == np.uint8


def _png_transparency(content: bytes) -> Tuple[int, Union[int, bool, None]]:
    """The colour type of a PNG, and what its tRNS chunk says: for grey the level, else true, or None without one."""
    bits, colour_type = content[24:26]
    place = len(_PNG_START)
    while place + 8 <= len(content):
        length, kind = struct.unpack('>I4s', content[place:place + 8])
        if kind == b'IDAT':
            break
        if kind == b'tRNS':
            if colour_type != _GREY:
                return colour_type, True
            level = int.from_bytes(content[place + 8:place + 10], 'big')
            return colour_type, level if bits >= 8 else level * 255 // (2 ** bits - 1)
        place += 12 + length
    return colour_type, None


def _webp_has_alpha(content: bytes) -> bool:
    if content[:4] != b'RIFF' or content[8:12] != b'WEBP' or len(content) < 25:
        return False
    return bool(content[12:16] == b'VP8X' and content[20] & _WEBP_ALPHA or
                content[12:16] == b'VP8L' and content[24] & _LOSSLESS_ALPHA)


def _turned(content: bytes, alpha: np.ndarray, image: np.ndarray) -> np.ndarray:
    """``alpha`` turned as OpenCV has turned ``image``."""
    plain = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    turn = next(turn for turn in _TURNS if np.array_equal(turn(plain), image))
    return turn(alpha)
