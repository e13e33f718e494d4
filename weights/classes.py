"""Names of the classes, in label order, beside a checkpoint or with it."""
import os
from typing import List, Optional, Sequence

from data.records import with_background
from data.synsets import in_words, synsets
from files.atomic import write_text
from files.checksums import with_checksum, without_checksum
from files.json_files import read_checked
from files.typed import list_of, parse, record, text
from weights import card
from weights.find import find_checkpoint, open_checkpoint

CLASSES_FILE = 'classes.json'
_CLASS_NAMES = list_of(text(1000), 10 ** 6, 1)
_CLASSES = record({'classes': _CLASS_NAMES})


def write_classes(folder: str, classes: Sequence[str]) -> None:
    write_text(os.path.join(folder, CLASSES_FILE), with_checksum({'classes': list(classes)}))


def read_classes(checkpoint: str) -> Optional[List[str]]:
    """Class names stored with a checkpoint (see ``find_checkpoint``) or beside it, in label order; None where there are
    none."""
    said = card.read(open_checkpoint(checkpoint))
    return said['classes'] if said and said['classes'] else classes_in(os.path.dirname(find_checkpoint(checkpoint)))


def names_of_outputs(checkpoint: str, count: int) -> List[str]:
    """What a network's outputs stand for, in words: by its checkpoint, else ImageNet's classes for 1000 outputs, and
    for 1001 with a background before them; empty where nothing is known."""
    names = read_classes(checkpoint)
    if names is None:
        usual = with_background(synsets(), count)
        names = usual if len(usual) == count else []
    return in_words(names)


def classes_in(folder: str) -> Optional[List[str]]:
    """Class names, in label order, stored in ``folder``; None where there are none."""
    path = os.path.join(folder, CLASSES_FILE)
    return read_checked(path, _parse_classes) if os.path.isfile(path) else None


def _parse_classes(content: bytes) -> List[str]:
    if content.startswith(b'['):  # a bare list: written by hand, or by runs before there was a checksum
        return parse(content, _CLASS_NAMES, 'in it')
    return parse(without_checksum(content.strip()), _CLASSES, 'in it')['classes']
