"""The embedded data set: scikit-learn's handwritten digits (UCI, 1797 images of 8x8) as a folder of PNG files.

For trying every program without a download; no paper uses it.
"""
import contextlib
import errno
import os
import shutil
import tempfile

import cv2
import numpy as np

NAME = 'digits'
COUNT = 1797
SIZE = 32  # pixels per side, as in CIFAR-10
VAL_EVERY = 6  # images 5, 11, 17, ... of the set are the validation split: 1498 for training, 299 for validation


def digits_folder() -> str:
    """Folder of the set, with ``train/<digit>/*.png`` and ``val/<digit>/*.png``; written on first use.

    It lies under ``$XDG_CACHE_HOME`` (or ``~/.cache``). The files are written beside their final place and moved there
    at once, with their sizes checked, so processes that start together are safe and a half-written set is never seen.

    Raises:
        ValueError: the folder cannot be written, or files of one that is there are missing or empty.
    """
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    home = os.path.join(cache, 'smooth-adversarial-training')
    folder = os.path.join(home, 'digits-v1')
    if not os.path.isdir(folder):
        try:
            os.makedirs(home, exist_ok=True)
            _write_and_move(home, folder)
        except OSError as error:
            raise ValueError("cannot write the embedded digits to {}: {}; set XDG_CACHE_HOME to a writable folder, or "
                             "name a data set with --data".format(folder, error.strerror)) from error
    whole = _count_files(folder)
    if whole != COUNT:
        raise ValueError("the embedded digits in {} are damaged: {} of their {} files are missing or empty; remove "
                         "that folder, and it is written again".format(folder, COUNT - whole, COUNT))
    return folder


def _count_files(folder: str) -> int:
    """How many image files with any content there are in the set."""
    count = 0
    for split in ('train', 'val'):
        for digit in range(10):
            with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(folder, split, str(digit))) as entries:
                count += sum(entry.name.endswith('.png') and entry.stat().st_size > 0 for entry in entries)
    return count


def _write_and_move(home: str, folder: str) -> None:
    unfinished = tempfile.mkdtemp(prefix='digits-unfinished-', dir=home)
    try:
        _write(unfinished)
        os.rename(unfinished, folder)
    except OSError:
        if not os.path.isdir(folder):  # otherwise another process was quicker
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder: str) -> None:
    from sklearn.datasets import load_digits
    digits = load_digits()
    for split in ('train', 'val'):
        for digit in range(10):
            os.makedirs(os.path.join(folder, split, str(digit)))
    for number, (grey, digit) in enumerate(zip(digits.images, digits.target)):
        split = 'val' if number % VAL_EVERY == VAL_EVERY - 1 else 'train'
        grey = np.round(grey * (255 / 16)).astype(np.uint8)  # the set counts grey levels from 0 to 16
        grey = cv2.resize(grey, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        content = cv2.imencode('.png', cv2.merge([grey, grey, grey]))[1].tobytes()
        _write_file(os.path.join(folder, split, str(digit), '{:04d}.png'.format(number)), content)


def _write_file(path: str, content: bytes) -> None:
    """Not ``cv2.imwrite``, which reports success on a full disk. What a crash of the machine then loses of the set is
    noticed when it is opened."""
    with open(path, 'wb') as f:
        f.write(content)
    if os.path.getsize(path) != len(content):
        raise OSError(errno.EIO, 'not all of it was written', path)
