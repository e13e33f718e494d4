"""The verdicts of an evaluation that is not finished, on disk, so that ``--resume-eval`` can go on after anything.

A file of JSON lines: the settings first, then for each round of batches the verdicts and the time so far. Each line
names the run, which no other has, and ends with a CRC-32 of what is before it. A line that a killed process left torn,
that was damaged or comes from elsewhere is left out; its images are judged again.
"""
import concurrent.futures
import contextlib
import hashlib
import json
import os
import secrets

import numpy as np
from tensorpack.utils import logger

from files.atomic import keep_older, write_text
from files.checksums import with_checksum, without_checksum
from files.typed import Malformed, anything, number, one_of, parse, record, text

FILE = 'unfinished.jsonl'
DATA, IMAGE_FILES = 'data', 'image files'  # settings: of names and labels, and of what the files hold
_FORMAT = 2
_OLDER = record({'settings': record({}, others=anything)})  # the first line before there were checksums
_FIRST = record({'format': one_of(_FORMAT), 'run': text(100), 'settings': record({}, others=anything)})
# Waiting for a network's file system, which answers many at once.
_STAT_THREADS = 16


class Journal:
    """The file of one evaluation; of its first rank alone, in a folder that it has locked. It is opened once.

    Args:
        folder (str): of the results. settings (dict): what decides the verdicts, JSON-ready, name to value.
        ranges (list of (int, int)): lowest and highest value in each column of the rows.
        resume (bool): go on with what is there, if anything is; else that is kept under another name.
    Attributes:
        path (str).
        resumed (bool): whether there was something to go on with.
        rows (np.ndarray): int32 [n, columns], the verdicts so far. seconds (float): the time they took.
    Raises:
        ValueError: what is there was made with other settings, or is damaged. OSError: it cannot be read or written.
    """

    def __init__(self, folder, settings, ranges, resume):
        self.path = os.path.join(folder, FILE)
        self.rows, self.seconds, self._ranges = np.empty([0, len(ranges)], np.int32), 0.0, ranges
        self.resumed = resume and os.path.exists(self.path)
        if not self.resumed:
            self._start(settings, resume)
        self._file = open(self.path, 'a+b', buffering=0)
        if self.resumed:
            try:
                self._read(settings)
            except BaseException:
                self.close()
                raise

    def close(self):
        self._file.close()

    def _start(self, settings, resume):
        if resume:
            logger.warning("--resume-eval: no unfinished evaluation in '{}', so it starts at its beginning".format(
                os.path.dirname(self.path)))
        kept = keep_older(self.path)
        if kept:
            logger.warning("an unfinished evaluation was there, which --resume-eval would have continued; it is kept "
                           "as '{}'".format(kept))
        self._run = secrets.token_hex(8)
        write_text(self.path, _line({'format': _FORMAT, 'run': self._run, 'settings': settings}))

    def _read(self, settings):
        self._file.seek(0)
        first, *lines = self._file.read().split(b'\n')
        try:
            start = parse(without_checksum(first), _FIRST, 'its first line')
        except Malformed as error:
            raise ValueError("--resume-eval: '{}' {}; move it away to start again".format(
                self.path, 'was written before its lines had checksums' if _is_older(first) else
                'is damaged ({})'.format(error))) from None
        self._run = start['run']
        self._check_same(start['settings'], json.loads(json.dumps(settings)))
        check = record({'run': one_of(self._run), 'seconds': number(0), 'rows': self._check_rows})
        parts, damaged = [self.rows], 0
        for line in filter(None, lines):
            try:
                entry = parse(without_checksum(line), check, 'a line')
            except Malformed:
                damaged += 1
                continue
            parts.append(entry['rows'])
            self.seconds = max(self.seconds, entry['seconds'])
        self.rows = np.concatenate(parts)
        if damaged:
            logger.warning("'{}': {} of {} lines cannot be trusted, torn or damaged; {} verdicts are left, and all "
                           'other images are judged again'.format(self.path, damaged, len(lines), len(self.rows)))
        if lines and lines[-1]:  # torn, or whole but for its end: what comes next has a line of its own
            self._write(b'\n')

    def _check_same(self, before, now):
        for name in list(before) + list(now):
            if before.get(name) != now.get(name):
                raise ValueError("--resume-eval: " + (
                    "image files have changed (size or time) since '{}' was started; leave --resume-eval out to judge "
                    'all anew'.format(self.path) if name == IMAGE_FILES
                    else "'{}' was started with {} {}, now it is {}".format(
                        self.path, name, before.get(name), now.get(name))))

    def _check_rows(self, value, where):
        """The rows of a line; int32 [n, columns]."""
        if type(value) is not list or not all(
                type(row) is list and len(row) == len(self._ranges) and
                all(type(v) is int and low <= v <= high for v, (low, high) in zip(row, self._ranges)) for row in value):
            raise Malformed('{}: verdicts that there cannot be'.format(where))
        return np.asarray(value, np.int32).reshape(-1, len(self._ranges))

    def append(self, rows, seconds):
        """Add verdicts (int [n, columns]), and the time since the evaluation began; on disk when this returns."""
        self._write(_line({'run': self._run, 'seconds': round(seconds, 3), 'rows': rows.tolist()}).encode())

    def _write(self, content):
        left = memoryview(content)
        while left:
            left = left[self._file.write(left):]
        os.fsync(self._file.fileno())

    def remove(self):
        """The evaluation is finished and its results are written: the file is not needed any more."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path)):
                os.remove(self.path)


def _line(content):
    return with_checksum(content) + '\n'


def _is_older(line):
    try:
        return bool(parse(line, _OLDER, ''))
    except Malformed:
        return False


def digest_of_checkpoint(values):
    """Hash of the content of ``read_checkpoint``, whatever format it came from."""
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


def digest_of_files(dataset):
    """Hash of the sizes and times of a data set's image files or shards: another one if their content was changed."""
    paths = getattr(dataset, 'shards', dataset.files)

    def look(first):
        found = []
        for path in paths[first::_STAT_THREADS]:
            try:
                status = os.stat(path)
                found.append([status.st_size, status.st_mtime_ns])
            except OSError:
                found.append(None)
        return found
    with concurrent.futures.ThreadPoolExecutor(_STAT_THREADS, thread_name_prefix='stat') as pool:
        found = list(pool.map(look, range(_STAT_THREADS)))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
