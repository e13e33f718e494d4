"""Folders of TFRecord shards, as the EfficientNet release reads ImageNet. An index gives access in any order.

A record (``framing.py``) is a tf.train.Example (tensorflow/core/example/example.proto). TensorFlow itself is not
imported: the data server's processes start, and fork, without it.
"""
import collections.abc
import concurrent.futures
import copy
import itertools
import os
import re
from typing import Any, DefaultDict, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np
from google.protobuf.message import DecodeError

from data.examples import Example
from data.framing import CRC, index_shard, masked_crc
from data.images import IMAGE_SUFFIXES, Unreadable
from data.synsets import synsets

SHARD_PREFIXES = {'train': 'train-', 'val': 'validation-'}
CLASS_FILE = 'classes.txt'  # class names in label order, one on a line; beside the shards
IMAGE_KEY, LABEL_KEY, NAME_KEY = 'image/encoded', 'image/class/label', 'image/filename'
# Networks of this many outputs were trained with the labels as they are in the records, 1 to 1000; 0 is BACKGROUND.
BACKGROUND_OUTPUTS, BACKGROUND = 1001, 'background'
_NUMBERED = re.compile(r'-(\d+)-of-(\d+)')
# Indexing waits for the file system, which over a network answers in parallel; 1.28 million questions add up.
_INDEX_THREADS = 16


class RecordSet:
    """A data set split in TFRecord shards. The order is that of the sorted shard names and of the records in them.

    It has the interface of ``ImageSet`` but for ``labels``: only a record itself tells its label.

    Attributes:
        files (sequence of str): a name for each of the N records, ``'<shard>#<number in the shard>'``.
        classes (list of str): class names; the index is the label.
        name (str): real path of the folder.
        shards (list of str): paths of the files.

    Args:
        root (str): folder of the shards.
        shards (list of str): their names.
        classes (list of str): see the attribute.
        labels (list of int): the network's labels for the labels 1, 2, ... of the records. Records with other labels
            are unreadable.
    Raises:
        ValueError: a shard is damaged or there are no records.
    """

    def __init__(self, root: str, shards: Sequence[str], classes: List[str], labels: Sequence[int]) -> None:
        self.classes, self.name = classes, os.path.realpath(root)
        self._labels, self.shards = labels, [os.path.join(root, shard) for shard in shards]
        with concurrent.futures.ThreadPoolExecutor(_INDEX_THREADS, thread_name_prefix='index') as pool:
            parts = list(pool.map(index_shard, self.shards))
        self._offsets = np.concatenate([offsets for offsets, _ in parts])
        self._lengths = np.concatenate([lengths for _, lengths in parts])
        if not len(self._offsets):
            raise ValueError("{}: its {} shards ({} ...) hold no records".format(root, len(shards), shards[0]))
        self.files = _RecordNames(shards, [len(offsets) for offsets, _ in parts])

    def load(self, index: int) -> Tuple[bytes, int]:
        """The image of one record as it is stored, and the network's label of it. Safe in threads and after a fork.

        Returns:
            content (bytes), label (int).
        Raises:
            Unreadable: the record is damaged, lacks one of the two, or has a label out of range.
        """
        example = self._example(index)
        content = self._only_value(index, example, IMAGE_KEY, 'bytes_list')
        if not content:
            raise Unreadable(self.files[index], '{} is empty'.format(IMAGE_KEY))
        return content, self._label(index, example)

    def originals(self) -> List[Tuple[str, int]]:
        """Of each record the name of the image file that it was made of, '' if it tells none, and the network's label,
        -1 if it cannot be had. All records are read for that."""
        def look(index: int) -> Tuple[str, int]:
            try:
                example = self._example(index)
                names = example.features.feature[NAME_KEY].bytes_list.value
                return os.path.basename(os.fsdecode(names[0])) if names else '', self._label(index, example)
            except Unreadable:
                return '', -1
        with concurrent.futures.ThreadPoolExecutor(_INDEX_THREADS, thread_name_prefix='names') as pool:
            return list(pool.map(look, range(len(self.files))))

    def chosen(self, numbers: Sequence[int]) -> 'RecordSet':
        """The records of these numbers alone, in this order."""
        part, order = copy.copy(self), np.asarray(numbers)
        part.files = self.files.chosen(order)
        part._offsets, part._lengths = self._offsets[order], self._lengths[order]
        return part

    def _example(self, index: int) -> Any:
        try:
            return Example.FromString(self._read(index))
        except DecodeError:
            raise Unreadable(self.files[index], 'it is no tf.train.Example') from None

    def _label(self, index: int, example: Any) -> int:
        label = self._only_value(index, example, LABEL_KEY, 'int64_list')
        if not 1 <= label <= len(self._labels):
            raise Unreadable(self.files[index], 'label {} is not in 1..{}'.format(label, len(self._labels)))
        return self._labels[label - 1]

    def _read(self, index: int) -> bytes:
        """The data of a record (bytes), its checksum verified."""
        length = int(self._lengths[index])
        shard, _ = self.files.place(index)
        try:
            # Opened for each record, as image files are: that takes microseconds, and 1024 shards that stay open in
            # every process would exceed the usual limit of open files.
            file = os.open(self.shards[shard], os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(file, length + CRC.size, int(self._offsets[index]))
            finally:
                os.close(file)
        except OSError as error:
            raise Unreadable(self.files[index], error.strerror) from None
        if len(data) < length + CRC.size:
            raise Unreadable(self.files[index], 'the file has become shorter')
        data, crc = data[:length], data[length:]
        if masked_crc(data) != CRC.unpack(crc)[0]:
            raise Unreadable(self.files[index], 'the checksum of its data is wrong')
        return data

    def _only_value(self, index: int, example: Any, key: str, kind: str) -> Any:
        values = getattr(example.features.feature[key], kind).value
        if len(values) != 1:
            raise Unreadable(self.files[index], '{} has {} values, not one'.format(key, len(values)) if values else
                             'it has no {}'.format(key))
        return values[0]


class _RecordNames(collections.abc.Sequence[str]):
    """Names of records, made when asked for: 1.28 million strings would take 100 MB in every process.

    Args:
        shards (list of str): file names.
        counts (list of int): records in each.
    """

    def __init__(self, shards: Sequence[str], counts: Sequence[int]) -> None:
        self._shards, self._ends = shards, np.cumsum(counts)
        self._chosen: Sequence[int] = range(int(self._ends[-1]))

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: Any) -> Any:
        shard, number = self.place(range(len(self))[index])
        return '{}#{}'.format(self._shards[shard], number)

    def chosen(self, numbers: Sequence[int]) -> '_RecordNames':
        """The names of these records alone, in this order."""
        names = copy.copy(self)
        names._chosen = [self._chosen[number] for number in numbers]
        return names

    def place(self, index: int) -> Tuple[int, int]:
        """Number of the shard that holds record ``index``, and the record's number in it."""
        index = self._chosen[index]
        shard = int(np.searchsorted(self._ends, index, side='right'))
        return shard, int(index - (self._ends[shard - 1] if shard else 0))


def list_shards(root: str) -> Dict[str, List[str]]:
    """The shards directly in ``root``: {split: sorted names}, without the splits that have none.

    Raises:
        ValueError: ``root`` cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(tuple(SHARD_PREFIXES.values()))
                           and os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES and entry.is_file())
    except OSError as error:
        raise ValueError("cannot list {}: {}".format(root, error.strerror)) from error
    found = {split: [name for name in names if name.startswith(prefix)] for split, prefix in SHARD_PREFIXES.items()}
    return {split: names for split, names in found.items() if names}


def open_records(root: str, shards: Mapping[str, List[str]], split: str, num_classes: Optional[int],
                 classes: Optional[Sequence[str]]) -> RecordSet:
    """Index the records of one split.

    Args:
        root (str): folder of the shards.
        shards (dict): what ``list_shards`` found in it.
        split, num_classes, classes: see ``open_dataset``.
    Returns:
        RecordSet.
    Raises:
        ValueError: a shard is missing or damaged, there are no records, or the classes do not fit.
    """
    if split not in shards:
        there = ' and '.join('{} {}*'.format(len(names), SHARD_PREFIXES[other]) for other, names in shards.items())
        raise ValueError("--data {!r}: {} shards are there, but no {}* for the {} split".format(
            root, there, SHARD_PREFIXES[split], split))
    _check_complete(root, shards[split])
    names, labels = _classes_and_labels(root, num_classes, classes)
    return RecordSet(root, shards[split], names, labels)


def read_class_file(root: str) -> Optional[List[str]]:
    """The class names of ``root``'s ``classes.txt`` (list of str), None if there is no such file.

    Raises:
        ValueError: it is empty, holds a name twice or an empty one, or cannot be read.
    """
    path = os.path.join(root, CLASS_FILE)
    try:
        with open(path, encoding='utf-8', errors='surrogateescape') as source:  # as Python decodes the names of folders
            names = source.read().rstrip('\n').split('\n')
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError("cannot read {}: {}".format(path, error.strerror)) from error
    if not all(names) or len(set(names)) < len(names):
        raise ValueError("{}: expected one class name on each line, none of them twice".format(path))
    return names


def _classes_and_labels(root: str, num_classes: Optional[int],
                        classes: Optional[Sequence[str]]) -> Tuple[List[str], List[int]]:
    """Class names of the network, and its labels for the labels 1, 2, ... of the records."""
    listed = read_class_file(root)
    own = listed or synsets()
    known = list(classes) if classes else with_background(own, num_classes)
    index = {name: label for label, name in enumerate(known)}
    unknown = [name for name in own if name not in index]
    if unknown:
        raise ValueError("{}: {} of its {} classes (first: {!r}), which come from {}, are not among the {} known "
                         "classes ({} ...), which come from the checkpoint".format(
                             root, len(unknown), len(own), unknown[0], CLASS_FILE if listed else
                             'ImageNet, as there is no ' + CLASS_FILE, len(known), ', '.join(known[:3])))
    labels = [index[name] for name in own]
    if num_classes is not None and max(labels) >= num_classes:
        if listed or classes:
            raise ValueError("--num-classes {}: {} has class {!r} with label {}, the network's labels end at {}; give "
                             "--num-classes {} or more".format(num_classes, root, known[max(labels)], max(labels),
                                                               num_classes - 1, max(labels) + 1))
        labels = labels[:num_classes]  # all of ImageNet's classes are a guess: the records may hold only the first ones
    return known, labels


def with_background(names: List[str], num_classes: Optional[int]) -> List[str]:
    """Class names, for a network of 1001 outputs with 'background' in front, unless ``names`` are as many already."""
    return [BACKGROUND] + names if num_classes == BACKGROUND_OUTPUTS > len(names) else names


def _check_complete(root: str, names: Sequence[str]) -> None:
    """Refuse a set of which shards are missing, by the numbers in their names if they have any."""
    numbers: DefaultDict[int, Set[int]] = collections.defaultdict(set)
    for found in filter(None, map(_NUMBERED.search, names)):
        numbers[int(found[2])].add(int(found[1]))
    if len(numbers) > 1:
        raise ValueError("{}: shards of different sets ({}), such as {} and {}; keep those of one".format(
            root, ' and '.join('{} shards'.format(total) for total in sorted(numbers)), names[0], names[-1]))
    for total, present in numbers.items():
        if len(present) < total:
            first = next(number for number in itertools.count() if number not in present)
            raise ValueError("{}: {} of the {} shards like {} are missing, the first is number {:05d}; complete the "
                             "folder".format(root, total - len(present), total, names[0], first))
