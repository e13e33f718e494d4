"""The 1000 classes of ILSVRC 2012 in label order (sorted WordNet ids, the order of the Caffe release)."""
import functools
import os
from typing import List, Sequence, Tuple


@functools.lru_cache(maxsize=None)
def _lines() -> Tuple[str, ...]:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'synset_words.txt')
    with open(path, encoding='ascii') as source:
        lines = tuple(source.read().splitlines())
    assert len(lines) == 1000, len(lines)
    return lines


def synset_words() -> List[str]:
    """Returns: list of 1000 strings; entry k names class k, e.g. ``'n01440764 tench, Tinca tinca'``."""
    return list(_lines())


def synsets() -> List[str]:
    """Returns: list of 1000 WordNet ids; entry k is the folder name of class k, e.g. ``'n01440764'``."""
    return [line.split(' ', 1)[0] for line in _lines()]


def in_words(classes: Sequence[str]) -> List[str]:
    """Class names, of which those that are ids become words: ``'n01440764'`` is ``'tench, Tinca tinca'``."""
    words = dict(line.split(' ', 1) for line in _lines())
    return [words.get(name, name) for name in classes]
