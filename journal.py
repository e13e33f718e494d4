"""The verdicts of an evaluation that is not finished, on disk, so that ``--resume-eval`` can go on after anything.

A file of JSON lines: the settings first, then for each round of batches the verdicts and the time so far. A line that a
killed process left torn is dropped; its images are judged again.
"""
import hashlib
import json
import os

import numpy as np
from tensorpack.utils import logger

from checkpoints import keep_older, write_text

FILE = 'unfinished.jsonl'


class Journal:
    """The file of one evaluation; of its first rank alone.

    Args:
        folder (str): of the results. settings (dict): what decides the verdicts, JSON-ready, name to value.
        width (int): numbers in the row of one verdict.
        resume (bool): go on with what is there, if anything is; else that is kept under another name.
    Attributes:
        path (str).
        resumed (bool): whether there was something to go on with.
        rows (np.ndarray): int32 [n, width], the verdicts so far. seconds (float): the time they took.
    Raises:
        ValueError: what is there was made with other settings, or is damaged. OSError: it cannot be read or written.
    """

    def __init__(self, folder, settings, width, resume):
        self.path = os.path.join(folder, FILE)
        self.rows, self.seconds = np.empty([0, width], np.int32), 0.0
        self.resumed = resume and os.path.exists(self.path)
        if self.resumed:
            self._read(settings)
            return
        if resume:
            logger.warning("--resume-eval: no unfinished evaluation in '{}', so it starts at its beginning".format(
                folder))
        kept = keep_older(self.path)
        if kept:
            logger.warning("an unfinished evaluation was there, which --resume-eval would have continued; it is kept "
                           "as '{}'".format(kept))
        write_text(self.path, json.dumps({'settings': settings}) + '\n')

    def _read(self, settings):
        with open(self.path, 'rb') as f:
            first, *lines = f.read().split(b'\n')
        try:
            before = json.loads(first)['settings']
        except (ValueError, TypeError, KeyError):
            raise ValueError("--resume-eval: '{}' is damaged in its first line; move it away to start again".format(
                self.path)) from None
        now = json.loads(json.dumps(settings))
        for name in list(before) + list(now):
            if before.get(name) != now.get(name):
                raise ValueError("--resume-eval: '{}' was started with {} {}, now it is {}".format(
                    self.path, name, before.get(name), now.get(name)))
        parts = [self.rows]
        torn = 0
        for line in filter(None, lines):
            try:
                entry = json.loads(line)
                parts.append(np.asarray(entry['rows'], np.int32).reshape(-1, self.rows.shape[1]))
                self.seconds = float(entry['seconds'])
            except (ValueError, TypeError, KeyError, OverflowError):
                torn += 1
        if torn:
            logger.warning("'{}': {} torn line{} left out; {} images are judged again".format(
                self.path, torn, 's are' if torn > 1 else ' is', 'their' if torn > 1 else 'its'))
        self.rows = np.concatenate(parts)
        if lines and lines[-1]:  # torn, or whole but for its end: what comes next has a line of its own
            self._write(b'\n')

    def append(self, rows, seconds):
        """Add verdicts (int [n, width]), and the time since the evaluation began; on disk when this returns."""
        self._write((json.dumps({'seconds': round(seconds, 3), 'rows': rows.tolist()}) + '\n').encode())

    def _write(self, content):
        with open(self.path, 'ab', buffering=0) as f:
            left = memoryview(content)
            while left:
                left = left[f.write(left):]
            os.fsync(f.fileno())

    def close(self):
        """The evaluation is finished and its results are written: the file is not needed any more."""
        os.remove(self.path)


def digest_of_checkpoint(values):
    """Hash of the content of ``checkpoints.read``, whatever format it came from."""
    content = hashlib.sha256()
    for name in sorted(values):
        value = np.asarray(values[name])
        content.update('{} {} {}\n'.format(name, value.dtype.str, value.shape).encode())
        content.update(value.tobytes())
    return content.hexdigest()


def digest_of_data(dataset):
    """Hash of a data set's names, of files with their folders, and labels as far as they are known without opening it.

    ``dataset``: ImageSet or RecordSet.
    """
    content = hashlib.sha256()
    for name in dataset.files:
        content.update('\n'.join(name.rsplit(os.sep, 2)[-2:]).encode('utf-8', 'surrogateescape') + b'\n')
    content.update(json.dumps([list(dataset.classes), getattr(dataset, 'labels', np.empty(0)).tolist()]).encode())
    return content.hexdigest()
