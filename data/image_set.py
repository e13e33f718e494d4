"""A data set of image files."""
import os
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from data.images import read_content


class ImageSet(NamedTuple):
    """A data set split. The order is that of the sorted class folders and file names, the same on every machine."""
    files: List[str]  # N paths
    labels: np.ndarray  # int32 [N]
    classes: List[str]  # class names; the index is the label
    name: str  # identity of the data: real path of its root, or 'digits'

    def load(self, index: int) -> Tuple[bytes, int]:
        """One image as it is stored, and its label.

        Returns:
            content (bytes), label (int).
        Raises:
            Unreadable: the file is missing or cannot be read.
        """
        return read_content(self.files[index]), int(self.labels[index])

    def originals(self) -> List[Tuple[str, int]]:
        """The file name of each image, without folders, and its label."""
        return [(os.path.basename(path), int(label)) for path, label in zip(self.files, self.labels)]

    def chosen(self, numbers: Sequence[int]) -> 'ImageSet':
        """The images of these numbers alone, in this order."""
        return self._replace(files=[self.files[number] for number in numbers], labels=self.labels[list(numbers)])
