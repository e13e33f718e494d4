"""Small image folders for the tests of the data path."""
import os

import cv2
import numpy as np

from data.folders import ImageSet


def write_image(path, value=0, size=(8, 8)):
    """A PNG or JPEG of one colour; ``value`` (0 to 16 million) can be read back from a PNG with ``value_of``."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    image = np.empty(tuple(size) + (3,), np.uint8)
    image[:] = (value & 255, value >> 8 & 255, value >> 16)
    assert cv2.imwrite(str(path), image)
    return str(path)


def value_of(image):
    """The ``value`` of one or more images of ``write_image`` [..., H, W, 3]."""
    blue, green, red = np.moveaxis(image[..., 0, 0, :].astype(np.int64), -1, 0)
    return blue + 256 * green + 65536 * red


def make_folder(root, names):
    """Write an image for each of ``names``, relative to ``root``. Returns: ``root`` as a string."""
    for number, name in enumerate(names):
        write_image(os.path.join(str(root), name), number)
    return str(root)


def make_noise_folder(root, counts, classes):
    """Write 8x8 noise images, ``counts`` (split to number) of them, in turn for each of ``classes``. Returns:
    ``root``."""
    random = np.random.default_rng(0)
    for split, count in counts.items():
        for number in range(count):
            folder = os.path.join(str(root), split, classes[number % len(classes)])
            os.makedirs(folder, exist_ok=True)
            image = random.integers(0, 256, [8, 8, 3], dtype=np.uint8)
            assert cv2.imwrite(os.path.join(folder, '{:02d}.png'.format(number)), image)
    return str(root)


def numbered_set(root, count, name='numbered'):
    """An ImageSet of ``count`` images; image k has value k and label k % 7."""
    files = [write_image(os.path.join(str(root), '{:04d}.png'.format(k)), k) for k in range(count)]
    return ImageSet(files, np.arange(count, dtype=np.int32) % 7, [str(k) for k in range(7)], name)
