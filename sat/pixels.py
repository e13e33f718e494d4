"""Images from outside, as a network is shown them: NumPy arrays and files, sizes and ranges."""
import os
from typing import NamedTuple, Sequence, Tuple

import numpy as np

from data.efficientnet_view import validation_batches
from data.folders import ImageSet
from data.images import Unreadable

LEVELS = (0, 255)
# Floats of which none is larger are taken for images of another range: [0, 1], [-1, 1], or normalised ones. Ours.
_LEAST_LARGEST = 3.0
_SLACK = 0.25  # of the range: bicubic resizing goes beyond both ends


class _Arrays(NamedTuple):
    """Arrays as a data set, in a format that keeps every pixel."""
    files: Sequence[str]
    arrays: Sequence[np.ndarray]
    name: str = 'images'

    def load(self, index):
        """The content of a PNG, and no label."""
        import cv2
        return cv2.imencode('.png', self.arrays[index][..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes(), 0


class Images:
    """Images as a network takes them, a part at a time.

    Args:
        images: RGB [N,H,W,3], uint8 or whole numbers 0-255, or floats in ``bounds``; or N file names; or N arrays
            [H,W,3] of uint8, also of different sizes.
        view (settings.data.View): how evaluations show the network an image. evaluated (bool): show all of them so;
            None: those that are not of the network's size yet; False: none.
        bounds (tuple): what black and white are in floats; None: 0 and 255.
    Raises:
        ValueError: they are no such images; says what to type.
    """

    def __init__(self, images, view, evaluated=None, bounds=None):
        self._view, self._side = view, view.input_size
        self.bounds = check_bounds(bounds)
        self._files = self._arrays = self._pixels = None
        if hasattr(images, 'images'):
            raise ValueError('images are an array or names of files; give this {} by its .images'.format(
                type(images).__name__))
        if isinstance(images, (str, os.PathLike)):
            images = [images]
        if isinstance(images, (list, tuple)) and images and isinstance(images[0], (str, os.PathLike)):
            self._files = [os.fspath(name) for name in images]
            for name in self._files:
                if not os.path.exists(name):
                    raise FileNotFoundError("'{}': no such file".format(name))
            return
        if isinstance(images, (list, tuple)) and len({np.shape(image) for image in images}) > 1:
            self._take_arrays([_whole_numbers(_checked(np.asarray(image)[np.newaxis]))[0] for image in images])
            return
        pixels = _checked(np.asarray(images if len(images) else np.zeros([0, self._side, self._side, 3], np.float32)))
        of_size = pixels.shape[1:3] == (self._side, self._side)
        if evaluated is False and not of_size:
            raise ValueError('images of {}x{} pixels: this network takes {side}x{side}; leave evaluated=False out, and '
                             'they are resized as in evaluations'.format(*pixels.shape[1:3], side=self._side))
        if evaluated or not of_size:
            self._take_arrays(_whole_numbers(pixels))
        else:
            self._pixels = self._in_bounds(pixels, bounds)

    def __len__(self):
        return len(next(have for have in (self._files, self._arrays, self._pixels) if have is not None))

    def part(self, rows):
        """float32 [n,S,S,3], BGR, 0-255, of a slice of the images.

        Raises:
            ValueError: a file is no image that can be read.
        """
        if self._pixels is not None:
            low, high = self.bounds
            pixels = np.asarray(self._pixels[rows, ..., ::-1], np.float32)
            return np.ascontiguousarray(pixels if self.bounds == LEVELS else (pixels - low) * np.float32(
                255 / (high - low)))
        if self._files is not None:
            return self._shown(ImageSet(self._files[rows], np.zeros(len(self._files[rows]), np.int32), [], 'images'))
        arrays = self._arrays[rows]
        return self._shown(_Arrays(['image {}'.format(number) for number in range(len(arrays))], arrays))

    def outwards(self, pixels):
        """``pixels``, such as ``part`` returns, in RGB and the range of these images."""
        low, high = self.bounds
        rgb = pixels[..., ::-1]
        return np.ascontiguousarray(rgb if self.bounds == LEVELS else low + rgb * ((high - low) / 255), np.float32)

    def slopes(self, gradient):
        """A gradient with respect to ``part``, in RGB and for a change of 1 in the range of these images."""
        low, high = self.bounds
        return np.ascontiguousarray(gradient[..., ::-1] * np.float32(255 / (high - low)))

    def _take_arrays(self, arrays):
        if self.bounds != LEVELS:
            raise ValueError('bounds {}: images that are resized are uint8, 0-255'.format(self.bounds))
        self._arrays = arrays

    def _in_bounds(self, pixels, bounds):
        """``pixels``, images of the network's size, if they are what ``bounds`` say."""
        if pixels.dtype.kind != 'f':
            if self.bounds != LEVELS:
                raise ValueError('bounds {}: whole numbers are pixel levels, 0-255'.format(self.bounds))
            return _whole_numbers(pixels)
        if not pixels.size:
            return pixels
        if not np.isfinite(pixels).all():
            raise ValueError('an image has values that are not finite')
        least, most = float(pixels.min()), float(pixels.max())
        if bounds is None and 0 < max(-least, most) <= _LEAST_LARGEST:
            raise ValueError('floats are pixel levels here, 0-255, and these are all in [{:.3g}, {:.3g}]; give '
                             'bounds=(0, 1) if white is 1, or bounds=(0, 255) if they are nearly black'.format(
                                 least, most))
        low, high = self.bounds
        slack = _SLACK * (high - low)
        if least < low - slack or most > high + slack:
            raise ValueError('images with values in [{:.4g}, {:.4g}] are not in {}; give their bounds'.format(
                least, most, self.bounds))
        return pixels

    def _shown(self, dataset):
        pixels = np.zeros([len(dataset.files), self._side, self._side, 3], np.float32)
        unread = set(range(len(dataset.files)))
        for image, _, index in validation_batches(dataset, min(32, len(dataset.files) or 1), self._view):
            pixels[index[index >= 0]] = image[index >= 0]
            unread -= set(index.tolist())
        if unread:
            raise ValueError(str(Unreadable(dataset.files[min(unread)])))
        return pixels


def check_bounds(bounds) -> Tuple[float, float]:
    """What black and white are in floats; None: pixel levels. Raises ValueError: not two rising numbers."""
    if bounds is None:
        return LEVELS
    low, high = bounds if np.shape(bounds) == (2,) else (0, 0)
    if not -np.inf < low < high < np.inf:
        raise ValueError('bounds {}: two numbers, black and white, such as (0, 1)'.format(bounds))
    return low, high


def _checked(pixels):
    """An array [N,H,W,3] of numbers."""
    if pixels.dtype.kind not in 'uif':
        raise ValueError('images are arrays of numbers or names of files, not of {}'.format(pixels.dtype))
    if pixels.ndim == 4 and pixels.shape[3] == 3 and min(pixels.shape[1:3]):
        return pixels
    advice = ''
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        advice = '; type images.transpose(0, 2, 3, 1)'
    elif pixels.ndim == 3 and pixels.shape[2] == 3:
        advice = '; type images[np.newaxis]'
    elif pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 1):
        advice = '; of grey ones type np.repeat(images.reshape(*images.shape[:3], 1), 3, axis=3)'
    raise ValueError('images are [N,H,W,3] in RGB, and these are {}{}'.format(list(pixels.shape), advice))


def _whole_numbers(pixels):
    """As uint8, 0-255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == 'f':
        raise ValueError("images of another size than the network's are resized as in evaluations, which show 8-bit "
                         'images; give uint8, 0-255, not {}'.format(pixels.dtype))
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 255:
        raise ValueError('whole numbers are pixel levels, 0-255, and these are {} to {}'.format(
            pixels.min(), pixels.max()))
    return pixels.astype(np.uint8)
