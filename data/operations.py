"""What the policies do to an image (uint8 [H,W,3]): the operations of TensorFlow's EfficientNet release.

Where they differ from Pillow's, an argument has the difference; ``increasing.py`` gives it Pillow's value.
"""
from typing import Any, Callable, Dict, Sequence

import cv2
import numpy as np

# EN release: grey that fills what an operation leaves uncovered.
FILL = 128
# EN release: SolarizeAdd changes values below this one.
SOLARIZE_ADD_THRESHOLD = 128
Matrix = Sequence[Sequence[float]]
Warp = Callable[[np.ndarray, Matrix], np.ndarray]


def opencv_grey(image: np.ndarray) -> np.ndarray:
    """OpenCV's grey values: uint8 [H,W]."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def warp_nearest(image: np.ndarray, matrix: Matrix) -> np.ndarray:
    """The nearest pixel at ``matrix @ (x, y, 1)`` for each place (x, y) of the result; grey outside the image."""
    return cv2.warpAffine(image, np.array(matrix, np.float64), image.shape[1::-1], borderValue=(FILL,) * 3,
                          flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT)


def auto_contrast(image: np.ndarray, number: Any = np.float32) -> np.ndarray:
    """Stretch each channel's values to 0-255; a channel of one value stays as it is. ``number``: type that computes."""
    tables = np.empty((1, 256, 3), np.uint8)
    for channel in range(3):
        present = _counts(image, channel).nonzero()[0]
        low, high = number(present[0]), number(present[-1])
        scale = 255 / (high - low) if high > low else number(1)
        offset = -low * scale if high > low else number(0)
        tables[0, :, channel] = np.clip(_VALUES.astype(number) * scale + offset, 0, 255)
    return cv2.LUT(image, tables)


def equalize(image: np.ndarray) -> np.ndarray:
    """Spread each channel's values evenly over 0-255, as `PIL.ImageOps.equalize`."""
    tables = np.empty((1, 256, 3), np.uint8)
    for channel in range(3):
        counts = _counts(image, channel)
        step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        below = np.cumsum(counts) - counts
        tables[0, :, channel] = np.clip((below + step // 2) // step, 0, 255) if step else _VALUES
    return cv2.LUT(image, tables)


def invert(image: np.ndarray) -> np.ndarray:
    """255 minus every value."""
    return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper ``bits`` bits of every value: 0 (black) to 8 (no change)."""
    return image & np.uint8(256 - (256 >> bits))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert the values from ``threshold`` up."""
    return cv2.LUT(image, np.where(_VALUES < threshold, _VALUES, 255 - _VALUES).astype(np.uint8))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Add ``addition`` (grey levels) to the values below 128, up to 255."""
    added = np.minimum(_VALUES + addition, 255)
    return cv2.LUT(image, np.where(_VALUES < SOLARIZE_ADD_THRESHOLD, added, _VALUES).astype(np.uint8))


def color(image: np.ndarray, factor: float, grey: Callable[[np.ndarray], np.ndarray] = opencv_grey) -> np.ndarray:
    """Scale the distance of every pixel from its ``grey`` value by ``factor``."""
    return _blend(cv2.cvtColor(grey(image), cv2.COLOR_GRAY2BGR), image, factor)


def away_from(constant: int, image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of every value from ``constant`` by ``factor``."""
    return cv2.LUT(image, _blend(constant, _VALUES, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of every value from a constant by ``factor``."""
    # EN release: meant to be the mean grey value, but it sums the histogram's counts without their values, and divides
    # by 256: the number of pixels over 256, whatever is in the image.
    return away_from(min(image.shape[0] * image.shape[1] // 256, 255), image, factor)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiply every value by ``factor``."""
    return away_from(0, image, factor)


def sharpness(image: np.ndarray, factor: float, rounding: int = 0) -> np.ndarray:
    """Scale the distance of every pixel from the smoothed image by ``factor``; the outermost pixels stay.

    ``rounding``: what is added to the sums of ``SMOOTH_SUM`` values before they are divided and truncated.
    """
    smooth = (cv2.filter2D(image, cv2.CV_16S, _SMOOTH) + rounding) // SMOOTH_SUM
    inside = slice(1, -1), slice(1, -1)
    sharpened = image.copy()
    sharpened[inside] = _blend(smooth[inside], image[inside], factor)
    return sharpened


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn about the centre, counter-clockwise as seen on a screen for positive ``degrees``."""
    height, width = image.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return warp_nearest(image, [[cosine, -sine, x - cosine * x + sine * y],
                                [sine, cosine, y - sine * x - cosine * y]])


def shear_x(image: np.ndarray, level: float, warp: Warp = warp_nearest) -> np.ndarray:
    """Shift row y to the left by ``level * y`` pixels."""
    return warp(image, [[1, level, 0], [0, 1, 0]])


def shear_y(image: np.ndarray, level: float, warp: Warp = warp_nearest) -> np.ndarray:
    """Shift column x up by ``level * x`` pixels."""
    return warp(image, [[1, 0, 0], [level, 1, 0]])


def translate_x(image: np.ndarray, pixels: float, warp: Warp = warp_nearest) -> np.ndarray:
    """Shift to the left by ``pixels``."""
    return warp(image, [[1, 0, pixels], [0, 1, 0]])


def translate_y(image: np.ndarray, pixels: float, warp: Warp = warp_nearest) -> np.ndarray:
    """Shift up by ``pixels``."""
    return warp(image, [[1, 0, 0], [0, 1, pixels]])


def cutout(image: np.ndarray, pad_size: int, row: int, column: int) -> np.ndarray:
    """Fill the square from ``pad_size`` pixels before (``row``, ``column``) to ``pad_size - 1`` behind it with grey."""
    result = image.copy()
    result[max(row - pad_size, 0):row + pad_size, max(column - pad_size, 0):column + pad_size] = FILL
    return result


OPERATIONS: Dict[str, Callable[..., np.ndarray]] = {
    'AutoContrast': auto_contrast, 'Equalize': equalize, 'Invert': invert, 'Rotate': rotate,
    'Posterize': posterize, 'Solarize': solarize, 'Color': color, 'Contrast': contrast,
    'Brightness': brightness, 'Sharpness': sharpness, 'ShearX': shear_x, 'ShearY': shear_y,
    'TranslateX': translate_x, 'TranslateY': translate_y, 'Cutout': cutout, 'SolarizeAdd': solarize_add}
_VALUES = np.arange(256, dtype=np.float32)
# EN release: PIL's smoothing kernel, divided by its sum.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32)
SMOOTH_SUM = 13


def _counts(image: np.ndarray, channel: int) -> np.ndarray:
    """How often each of the values 0-255 occurs in a channel: int64 [256]."""
    return cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)


def _blend(degenerate: Any, image: np.ndarray, factor: float) -> np.ndarray:
    """``degenerate + factor * (image - degenerate)`` in float32, clipped to 0-255 and truncated."""
    degenerate = np.asarray(degenerate, np.float32)
    mixed = np.asarray(image, np.float32) - degenerate
    mixed *= np.float32(factor)
    mixed += degenerate
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)
