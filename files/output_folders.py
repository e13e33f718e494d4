"""Folders that the programs write: a name of its own for each, and one writer at a time.

The writer holds a lock of the operating system (flock) on a file in the folder, by a descriptor that stays open, so
that the lock ends with the process, whatever ends it. NFS extends it to all hosts, and frees it when a host is gone.
Other shared file systems may have no such locks, or keep them within one host (Lustre without its option 'flock', NFS
with 'nolock'): therefore the writer also renews the file's time, and a folder whose writer was another host is free
only when that has not happened for ``DEAD_AFTER`` seconds.
"""
import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import threading
import time
from typing import Dict, Iterator, List, Optional, Tuple, Union

from files.typed import Malformed, parse, record, text, whole
from machine import programs

LOCK_FILE = '.lock'
RENEWED_EVERY, DEAD_AFTER = 5, 30  # seconds

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_TEXT = 1000
_OWNER = record({'boot': text(_TEXT), 'host': text(_TEXT), 'pid': whole(1, 2 ** 31), 'since': text(_TEXT),
                 'command': text(_TEXT)})

logger = logging.getLogger(__name__)


def numbered(base: str) -> Tuple[List[str], str]:
    """Existing folders named ``base``, oldest first: base, base-2, base-3, ..., and the next name."""
    found, name = [], base
    while os.path.exists(name):
        found.append(name)
        name = '{}-{}'.format(base, len(found) + 1)
    return found, name


def make_new(base: str) -> str:
    """Make the next folder named ``base``; programs that start together get one each.

    Returns:
        str: its path.
    """
    while True:
        name = numbered(base)[1]
        with contextlib.suppress(FileExistsError):
            os.makedirs(name)
            return name


@contextlib.contextmanager
def locked(folder: str, advice: str) -> Iterator[None]:
    """Be the only writer of ``folder``, which exists, as long as the context lasts, or until this process ends.

    Args:
        advice (str): what else the user can do than wait for another writer.
    Raises:
        ValueError: another process writes it; says which. OSError: the folder cannot be written.
    """
    path = os.path.join(folder, LOCK_FILE)
    file = _take(path, "'{}' is being written by {{}}; wait for its end, or {}".format(folder, advice))
    ended = threading.Event()
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(_this_process()).encode(), 0)
        threading.Thread(target=_renew, args=(file, ended), name='lock', daemon=True).start()
        yield
    finally:
        ended.set()
        if _is_at(file, path):
            with contextlib.suppress(OSError):
                os.remove(path)  # while it is locked: who opens it from now on makes a new one
        os.close(file)


def _renew(file: int, ended: threading.Event) -> None:
    while not ended.wait(RENEWED_EVERY):
        with contextlib.suppress(OSError):
            os.utime(file)


def _take(path: str, refusal: str) -> int:
    """Open and lock the file, whose last owner is dead. Returns: its descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(file, path, refusal)
            if _is_at(file, path):  # else its owner has removed it in between
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: str, refusal: str) -> None:
    """Lock an open file. Raises ValueError: its owner lives."""
    has_locks = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(refusal.format(_owner(file))) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        has_locks = False
    content = os.pread(file, 2 ** 16, 0)
    if content and not (has_locks and _boot_in(content) == _boot()):
        _wait_until_dead(file, path, refusal)


def _wait_until_dead(file: int, path: str, refusal: str) -> None:
    """Wait whether another host's process renews the file. Raises ValueError: it does."""
    before, end = os.fstat(file).st_mtime_ns, time.monotonic() + DEAD_AFTER
    logger.warning('waiting %g s whether %s, which was the last to write here, lives', DEAD_AFTER, _owner(file))
    while time.monotonic() < end:
        time.sleep(min(1, DEAD_AFTER / 10))
        # Opened anew: then the client of a shared file system asks for the time, and does not remember it.
        with contextlib.suppress(FileNotFoundError), open(path, 'rb') as same:
            if os.fstat(same.fileno()).st_mtime_ns != before:
                raise ValueError(refusal.format(_owner(file)))


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _boot() -> str:
    """What tells this kernel, and its containers with it, from all others."""
    try:
        with open('/proc/sys/kernel/random/boot_id') as f:
            return f.read().strip()
    except OSError:
        return socket.gethostname()


def _this_process() -> Dict[str, Union[str, int]]:
    return {'boot': _boot(), 'host': socket.gethostname()[:_TEXT], 'pid': os.getpid(),
            'since': datetime.datetime.now().isoformat(' ', 'seconds'),
            'command': shlex.join(programs.command())[:_TEXT]}


def _boot_in(content: bytes) -> Optional[str]:
    try:
        return parse(content, _OWNER, LOCK_FILE)['boot']
    except Malformed:
        return None


def _owner(file: int) -> str:
    """The process that a lock file names, in words."""
    try:
        return 'process {pid} of {host}, since {since}: {command}'.format(
            **parse(os.pread(file, 2 ** 16, 0), _OWNER, LOCK_FILE))
    except Malformed:
        return 'another process'
