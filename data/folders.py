"""Image folders: which files, which labels, which class names. Files are listed, and opened only when one is loaded."""
import collections
import itertools
import logging
import os
from typing import Counter, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from data.digits import NAME as DIGITS, digits_folder
from data.image_set import ImageSet
from data.images import IMAGE_SUFFIXES
from data.records import RecordSet, list_shards, open_records, with_background
from data.synsets import synsets

logger = logging.getLogger(__name__)

DATA_VARIABLE = 'SAT_DATA'  # of the environment: the root of the data set where --data is not given
SPLIT_FOLDERS = {'train': ('train',), 'val': ('val', 'validation', 'test')}  # the first that exists is used
_LEVELS_BELOW = 3  # as ILSVRC/Data/CLS-LOC/train is below ILSVRC
Listed = Tuple[List[str], List[int], Counter[str]]  # files, their labels, and how many others there are of each kind


def open_dataset(data: Optional[str], split: str, num_classes: Optional[int] = None,
                 classes: Optional[Sequence[str]] = None) -> Union[ImageSet, RecordSet]:
    """List the images of one split: of a folder of images, or of TFRecord shards.

    Accepted: the ILSVRC 2012 structure (FD and SAT: ``train/<wnid>/``, ``val/<wnid>/`` or a flat ``val/`` with a list
    ``val.txt`` beside or inside it), and any folder with one sub-folder per class: ``train/<class>/`` and
    ``{val,validation,test}/<class>/``, or ``<class>/`` alone, which serves for evaluation: a network must not be judged
    on the images that it is trained on. If all class folders are synsets of ImageNet, labels are ImageNet's even when
    classes are absent; otherwise the sorted folder names count. A line of ``val.txt`` is ``<file name> <label>``, the
    label a class name or a class index; it may list a part of ``val/``. For a network of 1001 outputs 'background'
    comes before ImageNet's classes. What is left out, but for hidden files, is logged in one line, by kind.

    A folder with files ``train-*`` or ``validation-*``, which are no images, and without sub-folders holds shards:
    records as the EfficientNet release reads them, with labels from 1. Their class names are those of ``classes.txt``
    beside the shards, else ImageNet's. Records that are damaged or whose labels the network lacks are left out when
    they are loaded.

    Args:
        data (str or None): root of the data set; None is the embedded digits.
        split (str): ``'train'`` or ``'val'``.
        num_classes (int or None): classes of the network; None accepts any.
        classes (list of str or None): class names in label order that a checkpoint was trained with.
    Returns:
        ImageSet or RecordSet.
    Raises:
        ValueError: the folder is missing, holds no images, is a level above or, for training, below the one that is
            meant, or has labels the network has no output for; a shard is missing or damaged; the classes of the shards
            are not among ``classes``.
    """
    if split not in SPLIT_FOLDERS:
        raise ValueError("split {!r}: choose from {}".format(split, sorted(SPLIT_FOLDERS)))
    root = digits_folder() if data is None else data
    if not os.path.isdir(root):
        raise ValueError("--data {!r}: no such directory; name the folder that contains train/ and val/".format(data))
    shards = {} if class_folders(root) else list_shards(root)
    if shards:
        return open_records(root, shards, split, num_classes, classes)
    folder = _split_folder(root, split)
    present = class_folders(folder)
    names = list(classes) if classes else with_background(_class_names(root, present), num_classes)
    files, labels, left_out = (
        _by_folder(folder, present, names, split) if present else _by_list(root, folder, split, names))
    if not files:
        _refuse_level_above(root, _LEVELS_BELOW)
        raise ValueError("no images in the {} class folders of {}; known are {}".format(
            len(present), folder, ' '.join(sorted(IMAGE_SUFFIXES))))
    _say(folder, left_out)
    labels = np.asarray(labels, dtype=np.int32)
    if num_classes is not None and labels.max() >= num_classes:
        worst = int(labels.argmax())
        raise ValueError("--num-classes {}: {} has label {}, the network's labels end at {}; give --num-classes {} "
                         "or more"
                         .format(num_classes, files[worst], labels[worst], num_classes - 1, labels[worst] + 1))
    return ImageSet(files, labels, names, DIGITS if data is None else os.path.realpath(data))


def default_data() -> Optional[str]:
    """The data set of a command without --data: SAT_DATA, or None where that is unset or empty.

    Raises:
        ValueError: it is no directory.
    """
    data = os.environ.get(DATA_VARIABLE) or None
    if data is not None and not os.path.isdir(data):
        raise ValueError("{} {!r}: no such directory; name the folder that contains train/ and val/, or give --data"
                         .format(DATA_VARIABLE, data))
    return data


def count_classes(data: str) -> Optional[int]:
    """How many classes the class folders of a data set make, ImageNet's 1000 if all are its synsets; None without class
    folders, as in TFRecord shards, whose labels are not told by folders.

    Args:
        data (str): root of the data set, as of ``open_dataset``.
    """
    splits = _existing(data, SPLIT_FOLDERS['train']) or _existing(data, SPLIT_FOLDERS['val']) or [data]
    found = class_folders(splits[0])
    return len(_class_names(data, found)) if found else None


def list_images(folder: str) -> List[str]:
    """Sorted paths of the image files directly in ``folder``. What is left out is logged as in ``open_dataset``.

    Raises:
        ValueError: ``folder`` cannot be listed.
    """
    files, left_out = _scan(folder)
    _say(folder, left_out)
    return files


def _scan(folder: str) -> Tuple[List[str], Counter[str]]:
    """Sorted paths of the image files directly in ``folder``, and how many other entries there are of each kind
    (Counter).

    Hidden ones are in neither. Raises ValueError: ``folder`` cannot be listed.
    """
    names = []
    left_out: Counter[str] = collections.Counter()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == '.':
                    continue
                ending = os.path.splitext(name)[1].lower()
                # The directory entry itself tells folders from files: no call per file, which matters for 1.28 million.
                if entry.is_dir():
                    left_out['folders'] += 1
                elif ending in IMAGE_SUFFIXES:
                    names.append(name)
                else:
                    left_out[ending + ' files' if ending else 'files without an ending'] += 1
    except OSError as error:
        raise ValueError("cannot list {}: {}".format(folder, error.strerror)) from error
    return [os.path.join(folder, name) for name in sorted(names)], left_out


def _say(folder: str, left_out: Mapping[str, int]) -> None:
    if left_out:
        logger.warning('%s: left out: %s', folder, ', '.join(
            '{} {}'.format(count, kind) for kind, count in sorted(left_out.items())))


def class_folders(folder: str) -> List[str]:
    """Sorted names of the folders directly in ``folder``, hidden ones left out.

    Raises:
        ValueError: ``folder`` cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != '.' and entry.is_dir())
    except OSError as error:
        raise ValueError("cannot list {}: {}".format(folder, error.strerror)) from error


def _existing(root: str, names: Iterable[str]) -> List[str]:
    return [path for path in (os.path.join(root, name) for name in names) if os.path.isdir(path)]


def _split_folder(root: str, split: str) -> str:
    own = _existing(root, SPLIT_FOLDERS[split])
    if own:
        return own[0]
    other = _existing(root, SPLIT_FOLDERS['train' if split == 'val' else 'val'])
    if other:
        raise ValueError("--data {!r}: {}/ is there, but no {}/ for the {} split".format(
            root, os.path.basename(other[0]), '/ or '.join(SPLIT_FOLDERS[split]), split))
    if split == 'train':
        _refuse_to_train_on(root)
    _refuse_level_above(root, 1)
    return root


def _refuse_to_train_on(root: str) -> None:
    """Refuse a folder without splits; on its images the network would be judged as well."""
    whole = _data_set_around(root)
    if whole:
        raise ValueError("--data {!r}: a part of the data set '{}', where train/ is; give --data {}".format(
            root, whole, whole))
    _refuse_level_above(root, _LEVELS_BELOW)
    if class_folders(root):
        raise ValueError("--data {!r}: class folders alone, on whose images the network would be both trained and "
                         "judged; move those for training to {}, others to {}".format(root, *(
                             os.path.join(root, name, '<class>', '') for name in ('train', 'val'))))


def _data_set_around(root: str) -> Optional[str]:
    """The folder with train/ that ``root``, a split or a class of it, is in; None if there is none."""
    for levels in (['..'], ['..', '..']):
        above = os.path.normpath(os.path.join(root, *levels))
        split = os.path.relpath(root, above).split(os.sep)[0]
        if split in itertools.chain(*SPLIT_FOLDERS.values()) and _existing(above, SPLIT_FOLDERS['train']):
            return above
    return None


def _refuse_level_above(root: str, levels: int) -> None:
    """Refuse a folder that has the one with train/ below it, at most so many levels."""
    folders = [root]
    for _ in range(levels):
        folders = [os.path.join(folder, name) for folder in folders for name in class_folders(folder)]
        found = [folder for folder in folders if _existing(folder, SPLIT_FOLDERS['train'])]
        if found:
            raise ValueError("--data {!r}: train/ is not there, but in '{}'{}; give --data {}".format(
                root, found[0], ' and {} other folders'.format(len(found) - 1) if found[1:] else '', found[0]))


def _class_names(root: str, present: List[str]) -> List[str]:
    """Class names in label order. train/ decides where it exists, so that both splits agree on the labels."""
    train = _existing(root, SPLIT_FOLDERS['train']) or _existing(_data_set_around(root) or root, SPLIT_FOLDERS['train'])
    found = class_folders(train[0]) if train else present
    imagenet = synsets()
    # A flat val/ without train/ has no class folders at all: that is how ILSVRC 2012 is distributed.
    return imagenet if set(found) <= set(imagenet) else found


def _by_folder(folder: str, present: List[str], names: List[str], split: str) -> Listed:
    index = {name: label for label, name in enumerate(names)}
    unknown = [name for name in present if name not in index]
    if unknown:
        raise ValueError("{}: {} of its {} class folders (first: {!r}) are not among the {} known classes ({} ...), "
                         "which come from the checkpoint or from train/; rename or remove them{}".format(
                             folder, len(unknown), len(present), unknown[0], len(names), ', '.join(names[:3]),
                             ', or train a new last layer for them: --new-classifier' if split == 'train' else ''))
    files, labels = [], []
    left_out = collections.Counter({'images beside the class folders': len(_scan(folder)[0])})
    for name in present:
        images, others = _scan(os.path.join(folder, name))
        files += images
        labels += [index[name]] * len(images)
        left_out += others
    return files, labels, +left_out


def _by_list(root: str, folder: str, split: str, names: List[str]) -> Listed:
    """Files and labels of a flat folder, from its list, and what is left out."""
    found_images, left_out = _scan(folder)
    images = {os.path.basename(path): path for path in found_images}
    if not images or split == 'train':
        raise ValueError("no class folders{} in {}; expected one sub-folder of images per class, or TFRecord shards"
                         .format('' if images else ' and no images', folder))
    candidates = [os.path.join(place, 'val.txt') for place in dict.fromkeys([root, folder])]
    found = [path for path in candidates if os.path.isfile(path)]
    if not found:
        raise ValueError("{} has images but no class folders, and there is no list of its labels: write lines '<file "
                         "name> <label>' to {}, or sort the images into one folder per class".format(
                             folder, ' or '.join(candidates)))
    label_of = _read_list(found[0], names)
    missing = sorted(set(label_of) - set(images))
    if missing:
        raise ValueError("{} names {} files that are not in {}, first {!r}; complete the folder or shorten "
                         "the list".format(found[0], len(missing), folder, missing[0]))
    listed = sorted(label_of)
    left_out['images that {} does not list'.format(os.path.basename(found[0]))] = len(images) - len(listed)
    left_out['.txt files'] -= os.path.dirname(found[0]) == folder  # the list itself
    return [images[name] for name in listed], [label_of[name] for name in listed], +left_out


def _read_list(path: str, names: List[str]) -> Dict[str, int]:
    """Parse ``val.txt``: {file name: label}."""
    index = {name: label for label, name in enumerate(names)}
    label_of = {}
    with open(path, encoding='utf-8') as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, _, label = line.strip().replace('\t', ' ').rpartition(' ')
            name = name.strip()
            if label not in index and not (label.isdecimal() and int(label) < len(names)):
                raise ValueError("{} line {}: {!r} is not '<file name> <label>' with a label of 0 to {} or a class "
                                 "name such as {}".format(path, number, line.strip(), len(names) - 1, names[0]))
            if not name or name in label_of:
                raise ValueError("{} line {}: {}".format(path, number, 'no file name' if not name else
                                                         '{!r} is listed twice'.format(name)))
            label_of[name] = index[label] if label in index else int(label)
    if not label_of:
        raise ValueError("{} is empty; write lines '<file name> <label>' to it".format(path))
    return label_of
