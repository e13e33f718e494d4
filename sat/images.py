"""Images of a validation set, as a network is shown them in evaluations."""
import dataclasses
from typing import List

import numpy as np

from commands import sources
from commands.judge import validation_batches
from data.subsets import spread
from ranks.launched import Ranks
from settings.resolve import resolve
from weights.classes import read_classes


@dataclasses.dataclass(frozen=True)
class Images:
    """Some images of a validation set, as a network is to see them.

    pixels: float32 [N,S,S,3], BGR, 0-255. label: int32 [N]. index: int32 [N], places in the whole set, from which the
    random starts of attacks come, as in an evaluation of the set. files: N names. classes: names by label.
    """
    pixels: np.ndarray
    label: np.ndarray
    index: np.ndarray
    files: List[str]
    classes: List[str]

    def __len__(self):
        return len(self.label)

    def part(self, rows):
        """The images of ``rows`` (int array)."""
        return Images(self.pixels[rows], self.label[rows], self.index[rows], [self.files[row] for row in rows],
                      self.classes)

    def moved_to(self, pixels):
        """The same images with other pixels."""
        return dataclasses.replace(self, pixels=pixels)


def open_images(args, count):
    """``count`` images, or all there are (None), spread evenly over the validation set.

    Args:
        args: resolved flags of ``main.py --eval``.
    Raises:
        ValueError: no data set, or none of the images can be read.
    """
    dataset = sources.open_images(args, 'val', read_classes(args.load))
    total = len(dataset.files)
    positions = spread(total, count or total)
    batches = list(validation_batches(resolve(args), dataset, Ranks(), positions))
    pixels, label, index = (np.concatenate(column) for column in zip(*batches))
    read = index >= 0
    if not read.any():
        raise ValueError("none of {} images of '{}' could be read".format(len(positions), dataset.name))
    return Images(pixels[read].astype(np.float32), label[read], index[read],
                  [dataset.files[k] for k in index[read]], list(dataset.classes))
