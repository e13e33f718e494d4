"""RandAugment whose severity rises with its magnitude, timm's `rand-m9-mstd0.5-inc1`, on uint8 BGR images.

RAT: "Revisiting Adversarial Training for ImageNet" (Singh et al. 2023), its heavy augmentation. The operations have the
very values of Pillow's, which it uses, and the affine ones its bicubic interpolation. Unlike there, each image's random
numbers are its own.
"""
import functools
import math
from typing import Any, Callable, Dict, NamedTuple, Tuple

import numpy as np

from data import operations
from native import resampling

# RAT: two operations an image, each applied or not; magnitudes about 9, of 10.
LAYERS, PROBABILITY = 2, 0.5
MAGNITUDE, DEVIATION, MAX_MAGNITUDE = 9.0, 0.5, 10.0
# RAT, at the largest magnitude: degrees; shift in x per pixel in y (and the reverse); shift as a share of the side;
# grey levels; what is added to or taken from a factor of 1, and the least factor.
ROTATE, SHEAR, TRANSLATE, SOLARIZE_ADD, FACTOR, LEAST_FACTOR = 30, 0.3, 0.45, 110, 0.9, 0.1
MOST_ADDED = 128
# Pillow's grey: units of 2^-16 of blue, green and red, rounded.
GREY_WEIGHTS, GREY_BITS = (7471, 38470, 19595), 16
# Pillow rounds the mean that sharpness smooths with.
ROUNDED = operations.SMOOTH_SUM // 2
_DIGITS = 15  # of sines and cosines in Pillow's rotation

Values = Tuple[Any, ...]


class Operation(NamedTuple):
    """apply: (image, *values) -> image. values: (level of 0 to 1, sign) -> what follows the image in its arguments."""
    apply: Callable[..., np.ndarray]
    values: Callable[[float, int], Values] = lambda level, sign: ()


def grey(image: np.ndarray) -> np.ndarray:
    """Grey values of BGR pixels, as Pillow's mode L has them: uint8 [H,W]."""
    total = np.full(image.shape[:2], 1 << (GREY_BITS - 1), np.uint32)
    for channel, weight in enumerate(GREY_WEIGHTS):
        total += image[..., channel].astype(np.uint32) * np.uint32(weight)
    return (total >> GREY_BITS).astype(np.uint8)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance of every value from the mean grey value, which is rounded, by ``factor``."""
    return operations.away_from(int(grey(image).mean() + 0.5), image, factor)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn about the centre, counter-clockwise as seen on a screen for positive ``degrees``."""
    x, y = image.shape[1] / 2, image.shape[0] / 2
    cosine, sine = (round(f(-math.radians(degrees % 360)), _DIGITS) for f in (math.cos, math.sin))
    return resampling.warp(image, [[cosine, sine, cosine * -x + sine * -y + x],
                                   [-sine, cosine, -sine * -x + cosine * -y + y]])


def translate_x(image: np.ndarray, share: float) -> np.ndarray:
    """Shift to the left by ``share`` of the width."""
    return operations.translate_x(image, share * image.shape[1], resampling.warp)


def translate_y(image: np.ndarray, share: float) -> np.ndarray:
    """Shift up by ``share`` of the height."""
    return operations.translate_y(image, share * image.shape[0], resampling.warp)


def _signed(most: float) -> Callable[[float, int], Values]:
    return lambda level, sign: (sign * (level * most),)


def _factor(level: float, sign: int) -> Values:
    return (max(LEAST_FACTOR, 1.0 + sign * (level * FACTOR)),)


OPERATIONS: Dict[str, Operation] = {
    'AutoContrast': Operation(functools.partial(operations.auto_contrast, number=np.float64)),
    'Equalize': Operation(operations.equalize),
    'Invert': Operation(operations.invert),
    'Rotate': Operation(rotate, _signed(ROTATE)),
    'PosterizeIncreasing': Operation(operations.posterize, lambda level, sign: (4 - int(level * 4),)),
    'SolarizeIncreasing': Operation(operations.solarize, lambda level, sign: (256 - min(256, int(level * 256)),)),
    'SolarizeAdd': Operation(operations.solarize_add,
                             lambda level, sign: (min(MOST_ADDED, int(level * SOLARIZE_ADD)),)),
    'ColorIncreasing': Operation(functools.partial(operations.color, grey=grey), _factor),
    'ContrastIncreasing': Operation(contrast, _factor),
    'BrightnessIncreasing': Operation(operations.brightness, _factor),
    'SharpnessIncreasing': Operation(functools.partial(operations.sharpness, rounding=ROUNDED), _factor),
    'ShearX': Operation(functools.partial(operations.shear_x, warp=resampling.warp), _signed(SHEAR)),
    'ShearY': Operation(functools.partial(operations.shear_y, warp=resampling.warp), _signed(SHEAR)),
    'TranslateXRel': Operation(translate_x, _signed(TRANSLATE)),
    'TranslateYRel': Operation(translate_y, _signed(TRANSLATE))}
_NAMES = tuple(OPERATIONS)


def rand_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random view, of the same size; ``image`` (uint8 [H,W,3], BGR) is never written to."""
    for number in rng.integers(len(_NAMES), size=LAYERS):
        if rng.uniform() < PROBABILITY:
            level = min(max(rng.normal(MAGNITUDE, DEVIATION), 0.0), MAX_MAGNITUDE) / MAX_MAGNITUDE
            operation = OPERATIONS[_NAMES[number]]
            image = operation.apply(image, *operation.values(level, -1 if rng.uniform() < 0.5 else 1))
    return image
