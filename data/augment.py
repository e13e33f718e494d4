"""What augmentations and validation views consist of, as functions of uint8 BGR images [H,W,3].

Every random choice is drawn from the ``np.random.Generator`` in the argument list. The functions that change colours
take the drawn values themselves. After each colour step the image is clipped to 0-255 and truncated to uint8, as in the
released code (FD: the augmentors of its ImageNet data path, "fb.resnet.torch" style).
"""
import functools
from typing import Optional, Sequence, Tuple, Union

import cv2
import numpy as np

from data.images import Jpeg

Image = Union[np.ndarray, Jpeg]
Box = Tuple[int, int, int, int]  # top, left, height, width

# FD, released code: random-area crop ("Going Deeper with Convolutions", Sec 6).
CROP_AREA = (0.08, 1.0)  # fraction of the image's area
CROP_ASPECT = (0.75, 1.333)
CROP_ATTEMPTS = 10
# FD, released code: factors of brightness, contrast and saturation.
BRIGHTNESS = CONTRAST = SATURATION = (0.6, 1.4)
# FD, released code: lighting noise ("ImageNet Classification with Deep CNNs", Sec 4.1). Principal components of RGB
# values on the 0-255 scale; one column per component. Turned to BGR by reversing both axes and the list.
LIGHTING_STD = 0.1
LIGHTING_EIGENVALUES = (255 * np.array([0.2175, 0.0188, 0.0045], np.float32))[::-1]
LIGHTING_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009],
                                  [-0.5808, -0.0045, -0.8140],
                                  [-0.5836, -0.6948, 0.4203]], np.float32)[::-1, ::-1]
# "Deep Residual Learning", Sec 4.2 (CIFAR-10): 4 zero pixels on every side, random crop, random flip.
CIFAR_PADDING = 4
# EN release: its crop is TensorFlow's sample_distorted_bounding_box, which draws from CROP_AREA and then refuses crops
# with less of the object, here the image, than a share of EN_CROP_COVERED.
EN_CROP_ASPECT = (3 / 4, 4 / 3)
EN_CROP_COVERED = 0.1
# FD, released code: validation resizes the shortest edge to 256 for an input of 224; SAT keeps the 32 at other sizes.
# The EN release's crop for an input of S has the share S / (S + 32) of the shorter edge.
VALIDATION_MARGIN = 32


def resize_plain(image: np.ndarray, size: int, interpolation: int = cv2.INTER_CUBIC) -> np.ndarray:
    """Resize to [size,size,3], ignoring the aspect ratio; an image of that size is returned as it is.

    Cubic in the released ``--eval-directory``, ``cv2.INTER_LINEAR`` in the released ``inference-example.py``.
    """
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=interpolation)


def resize_shortest_edge(image: np.ndarray, size: int) -> np.ndarray:
    """Cubic resize that makes the shorter edge ``size`` pixels and keeps the aspect ratio."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    if height < width:
        height, width = size, int(scale * width + 0.5)
    else:
        height, width = int(scale * height + 0.5), size
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle [size,size,3]; an odd excess leaves the larger part below and to the right."""
    height, width = image.shape[:2]
    top, left = int(0.5 * (height - size)), int(0.5 * (width - size))
    return image[top:top + size, left:left + size]


def area_crop_box(height: int, width: int, rng: np.random.Generator) -> Optional[Box]:
    """Draw a random-area crop.

    Returns:
        (top, left, height, width) in pixels, or None if no attempt fitted into the image.
    """
    for _ in range(CROP_ATTEMPTS):
        area = rng.uniform(*CROP_AREA) * height * width
        aspect = rng.uniform(*CROP_ASPECT)
        box_width, box_height = int(np.sqrt(area * aspect) + 0.5), int(np.sqrt(area / aspect) + 0.5)
        if rng.uniform() < 0.5:
            box_width, box_height = box_height, box_width
        if 0 < box_height <= height and 0 < box_width <= width:
            left = int(rng.integers(0, width - box_width + 1))
            top = int(rng.integers(0, height - box_height + 1))
            return top, left, box_height, box_width
    return None


def random_area_crop(image: Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Crop of random area, aspect ratio and place, resized (cubic) to [size,size,3]."""
    box = area_crop_box(image.shape[0], image.shape[1], rng)
    if box is None:
        return center_crop(resize_shortest_edge(image[:, :], size), size)
    top, left, height, width = box
    return cv2.resize(image[top:top + height, left:left + width], (size, size), interpolation=cv2.INTER_CUBIC)


def distorted_box(height: int, width: int, rng: np.random.Generator) -> Optional[Box]:
    """Draw a crop as TensorFlow's sample_distorted_bounding_box does for the whole image as its object (EN release).

    Returns:
        (top, left, height, width) in pixels, or None if no attempt fitted into the image.
    """
    least, most = (share * height * width for share in CROP_AREA)
    for _ in range(CROP_ATTEMPTS):
        aspect = rng.uniform(*EN_CROP_ASPECT)
        lowest, highest = (int(round((area / aspect) ** 0.5)) for area in (least, most))
        highest = min(highest, height, int((width + 0.5) / aspect))
        box_height = int(rng.integers(min(lowest, highest), highest + 1))
        box_width = int(round(box_height * aspect))
        if EN_CROP_COVERED * height * width <= box_height * box_width <= most and 0 < box_width <= width:
            top = int(rng.integers(0, max(1, height - box_height)))
            left = int(rng.integers(0, max(1, width - box_width)))
            return top, left, box_height, box_width
    return None


def distorted_crop(image: Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """The EN release's random crop, resized (cubic) to [size,size,3]; its central one where the whole image is
    drawn."""
    height, width = image.shape[:2]
    box = distorted_box(height, width, rng)
    if box is None or box[2:] == (height, width):
        side = max(1, int(size / (size + VALIDATION_MARGIN) * min(height, width)))
        box = (height - side + 1) // 2, (width - side + 1) // 2, side, side
    top, left, height, width = box
    return cv2.resize(image[top:top + height, left:left + width], (size, size), interpolation=cv2.INTER_CUBIC)


def padded_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pad with zeros, then crop the old size at a random place."""
    height, width = image.shape[:2]
    pad = CIFAR_PADDING
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    top, left = rng.integers(0, 2 * pad + 1, size=2)
    return padded[top:top + height, left:left + width]


def random_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror left to right with probability 1/2."""
    return cv2.flip(image, 1) if rng.uniform() < 0.5 else image


def random_color(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and lighting, each with a random strength, in random order."""
    steps = [functools.partial(brightness, factor=rng.uniform(*BRIGHTNESS)),
             functools.partial(contrast, factor=rng.uniform(*CONTRAST)),
             functools.partial(saturation, factor=rng.uniform(*SATURATION)),
             functools.partial(lighting, noise=rng.normal(0.0, LIGHTING_STD, size=3))]
    colors = Colors(image)
    for number in rng.permutation(len(steps)):
        colors = steps[number](colors)
    return colors.image()


class Colors:
    """An image between colour steps. Steps that only map values wait, and those in a row go over the pixels once.

    Args:
        image (np.ndarray): uint8 [H,W,3]. table (np.ndarray or None): uint8 [1,256,3], what becomes of its values.
    """

    def __init__(self, image: np.ndarray, table: Optional[np.ndarray] = None) -> None:
        self._image, self._table = image, table

    def image(self) -> np.ndarray:
        """uint8 [H,W,3]."""
        if self._table is not None:
            self._image, self._table = cv2.LUT(self._image, self._table), None
        return self._image

    def mapped(self, values: np.ndarray) -> 'Colors':
        """Value v of channel c replaced by ``values[v,c]``, or ``values[v,0]``, clipped to 0-255 and truncated."""
        table = np.empty((1, 256, 3), np.uint8)
        np.copyto(table[0], np.clip(values, 0, 255), casting='unsafe')
        return Colors(self._image, table if self._table is None else cv2.LUT(self._table, table))


def brightness(colors: Colors, factor: float) -> Colors:
    """Multiply every value by ``factor``."""
    return colors.mapped(_VALUES * np.float32(factor))


def contrast(colors: Colors, factor: float) -> Colors:
    """Scale the distance of every value from its channel's mean by ``factor``."""
    mean = np.array(cv2.mean(colors.image())[:3])
    return colors.mapped(_VALUES.astype(np.float64) * factor + mean * (1 - factor))


def saturation(colors: Colors, factor: float) -> Colors:
    """Scale the distance of every pixel from its grey value by ``factor``."""
    image = colors.image()
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    grey = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    return Colors(cv2.addWeighted(image, factor, grey, 1 - factor, _TRUNCATE, dst=grey))


def lighting(colors: Colors, noise: Sequence[float]) -> Colors:
    """Add ``noise`` (3 numbers, one per principal component of ImageNet's colours) to all pixels alike."""
    return colors.mapped(_VALUES + LIGHTING_EIGENVECTORS @ (np.asarray(noise, np.float32) * LIGHTING_EIGENVALUES))


_VALUES = np.arange(256, dtype=np.float32)[:, None]
# Added before OpenCV rounds to uint8. Short of a half, so that a whole number with an error of float32 stays itself.
_TRUNCATE = -0.499
