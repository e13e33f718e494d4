"""What others know of a data set and of a stream of batches: all that they ask of one."""
from typing import Any, Mapping, Protocol, Sequence, Tuple

import numpy as np


class DataSet(Protocol):
    """Images and their labels, by number: ``ImageSet`` and ``RecordSet``."""
    @property
    def files(self) -> Sequence[str]:
        """A name for each image."""

    @property
    def classes(self) -> Sequence[str]:
        """Names in label order."""

    @property
    def name(self) -> str:
        """Identity of the data."""

    def load(self, index: int) -> Tuple[bytes, int]:
        """An image as it is stored, and its label. Raises: Unreadable."""

    def originals(self) -> Sequence[Tuple[str, int]]:
        """For each image the name of the file that it was published as, '' if unknown, and its label, -1 if unknown."""

    def chosen(self, numbers: Sequence[int]) -> 'DataSet':
        """The images of these numbers alone, in this order."""


class Stream(Protocol):
    """Batches as functions of their number alone, without an end: ``TrainingStream`` and ``FakeStream``."""
    @property
    def specs(self) -> Sequence[Tuple[Any, Tuple[int, ...]]]:
        """dtype and shape of each array of a batch."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Names of the images that could not be had so far, each with what is wrong."""

    def batch(self, number: int) -> Tuple[np.ndarray, ...]:
        """Images and labels. Raises ValueError: there is no image for it."""

    def fill(self, number: int, image: np.ndarray, label: np.ndarray) -> None:
        """Write a batch into arrays of these specs. Raises: as ``batch``."""
