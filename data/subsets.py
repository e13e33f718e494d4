"""Named parts of validation sets, in an order of their own: what ``--subset`` may be."""
import os
import re
from typing import Dict, List, NamedTuple, Tuple

import numpy as np

from data.protocols import DataSet
from data.synsets import synsets

_IMAGENET_NAME = re.compile(r'ILSVRC2012_val_\d{8}')


class Subset(NamedTuple):
    """A list of images of ImageNet's validation set.

    file (str): name of an .npz beside this module: `number`, uint16 [N], of the images, from 1; `label`, uint16 [N],
    among ImageNet's classes. help (str): what --help says of it.
    """
    file: str
    help: str

    def images(self) -> List[Tuple[str, str]]:
        """The list: names of files without their ending, and the WordNet ids of their classes."""
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), self.file)
        with np.load(path, allow_pickle=False) as arrays:
            number, label = arrays['number'].tolist(), arrays['label'].tolist()
        classes = synsets()
        return [('ILSVRC2012_val_{:08d}'.format(k), classes[c]) for k, c in zip(number, label)]


SUBSETS: Dict[str, Subset] = {
    # github.com/RobustBench/robustbench, by which published figures are compared (Croce et al. 2021).
    'robustbench': Subset('robustbench.npz', "RobustBench's 5000 images of ImageNet")}


def spread(total: int, count: int) -> np.ndarray:
    """Places (int32) of ``count`` images, or all there are, evenly over a set of ``total``, whose order is often by
    class."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int32))


def part_of(dataset: DataSet, name: str) -> DataSet:
    """The images of a subset, in the order of its list, found by the names of the files that they were published as.

    Args:
        dataset: the validation set. name (str): a key of ``SUBSETS``.
    Raises:
        ValueError: images are missing, or have other labels than the list says.
    """
    images, originals = SUBSETS[name].images(), dataset.originals()
    found: Dict[str, Tuple[int, int]] = {}
    for number, (file, label) in enumerate(originals):
        named = _IMAGENET_NAME.match(file)
        if named:
            found.setdefault(named[0], (number, label))
    missing = ['{}/{}.JPEG'.format(synset, file) for file, synset in images if file not in found]
    if missing:
        reason = '' if any(file for file, _ in originals) else '; its records do not tell the names of their files'
        raise ValueError("--subset {}: {} of its {} images are not in '{}', the first is {}{}".format(
            name, len(missing), len(images), dataset.name, missing[0], reason))
    index = {synset: label for label, synset in enumerate(dataset.classes)}
    others = [(file, synset) for file, synset in images if found[file][1] != index.get(synset)]
    if others:
        label = found[others[0][0]][1]
        there = dataset.classes[label] if 0 <= label < len(dataset.classes) else label
        raise ValueError("--subset {}: {} of its {} images are of another class in '{}', the first is {}: {}, not {}; "
                         "see to the folders, or the list of labels".format(
                             name, len(others), len(images), dataset.name, others[0][0], there, others[0][1]))
    return dataset.chosen([found[file][0] for file, _ in images])
