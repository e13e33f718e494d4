"""Crops and views of evaluations as torchvision makes them of 8-bit images, resized by Pillow, antialiased.

Bicubic: those of RAT, "Revisiting Adversarial Training for ImageNet" (Singh et al. 2023), in RobustBench's words
BicubicRes256Crop224. Bilinear: torchvision's own defaults, with which RobustBench judges ResNets under its names
(Engstrom 2019, Salman 2020), Res256Crop224.
"""
import math

import numpy as np

from data.augment import CROP_AREA, CROP_ATTEMPTS, EN_CROP_ASPECT as ASPECT, Box, Image
from native import resampling

# RAT, RobustBench: the share that an evaluation's crop has of the shorter edge: 224 of 256.
CROP_SHARE = 0.875


def crop_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """Draw a crop of random area, of an aspect ratio that is uniform in its logarithm; where none of the attempts fits
    into the image, the largest central one of the nearest allowed aspect ratio.

    Returns:
        (top, left, height, width) in pixels.
    """
    for _ in range(CROP_ATTEMPTS):
        area = rng.uniform(*CROP_AREA) * height * width
        aspect = math.exp(rng.uniform(*map(math.log, ASPECT)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_height <= height and 0 < box_width <= width:
            top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in
                         ((height, box_height), (width, box_width)))
            return top, left, box_height, box_width
    box_width, box_height = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def antialiased_crop(image: Image, size: int, rng: np.random.Generator, kernel: str = 'bicubic') -> np.ndarray:
    """Crop of random area, aspect ratio and place, resized to [size,size,3] by one of ``resampling.KERNELS``."""
    top, left, height, width = crop_box(image.shape[0], image.shape[1], rng)
    return resampling.resize(image[top:top + height, left:left + width], size, size, kernel=kernel)


def antialiased_centre(image: np.ndarray, size: int, kernel: str = 'bicubic') -> np.ndarray:
    """The middle [size,size,3] of the image whose shorter edge was made size / 0.875 pixels; both edges truncated."""
    shorter, edges = math.floor(size / CROP_SHARE), image.shape[:2]
    height, width = (shorter if edge == min(edges) else int(shorter * edge / min(edges)) for edge in edges)
    # Python's rounding, to even at halves, is torchvision's.
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resampling.resize(image, height, width, (top, left, size, size), kernel)
