"""Bringing a published model's files to this machine, whole or not at all, from where a broken attempt stopped."""
import contextlib
import fcntl
import hashlib
import os
import re
import sys
import traceback
from typing import Callable, Dict, Iterator, Optional, Tuple
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

from files.atomic import write_text
from ranks.end import reason
from weights.find import read_checkpoint
from zoo import published

PART = '.part'
SUMS = 'SHA256SUMS'  # in a model's folder, as `sha256sum -c` reads it
_SECONDS = (10, 60)  # to connect, and between two pieces of an answer
_READ = 1 << 20  # bytes of a file at a time
_PIECE = 1 << 16  # bytes; so many at most are lost where a connection breaks

Say = Optional[Callable[[str], None]]


def bring(load: Optional[str], say: Say) -> None:
    """Download what ``--load zoo:NAME`` means; nothing for another checkpoint.

    Raises: see ``fetch``; ValueError: no such model.
    """
    if load is not None and published.is_named(load):
        fetch(published.find(load), published.folder(), say)


def fetch(model: published.Model, folder: str, say: Say) -> str:
    """Download the files of ``model`` that are not in ``folder`` yet.

    They come into a folder ``<name>.part`` and stay there until all are whole and can be read as a checkpoint; then it
    gets the model's name. So what has its name is good, and is never touched again; that it still is what came is seen
    by its SHA-256. Several processes may ask for the same model at the same time: one downloads, the others wait.

    Args:
        model (published.Model). folder (str): made if not there. say: (str) -> None, told what is going on; None to be
        silent.
    Returns:
        str: the checkpoint's path.
    Raises:
        OSError: with a message that names the model and says why; what came so far stays for the next attempt.
    """
    if model.is_in(folder):
        check_unchanged(model, folder)
        return model.path(folder)
    if not model.files:
        raise OSError("cannot download '{}': {}".format(model.name, _by_hand(model, folder)))
    try:
        os.makedirs(folder, exist_ok=True)
        with _alone(os.path.join(folder, '.{}.lock'.format(model.name))):
            if not model.is_in(folder):
                _fetch_all(model, folder, say)
    except OSError as error:
        raise OSError("cannot download '{}': {}".format(model.name, _in_words(error))) from error
    return model.path(folder)


def _by_hand(model: published.Model, folder: str) -> str:
    try:
        model.check_network()
    except ValueError as error:
        return str(error)
    return "its release shares a folder, not a file's address; save its weights from {} as '{}'".format(
        ' or '.join(model.pages), model.path(folder))


@contextlib.contextmanager
def _alone(lock: str) -> Iterator[None]:
    """Wait until no other process is in here with the same file ``lock``."""
    with open(lock, 'w') as f:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _fetch_all(model: published.Model, folder: str, say: Say) -> None:
    final = os.path.join(folder, model.name)
    unfinished = final + PART
    if os.path.lexists(final):
        raise OSError("'{}' is there, but lacks some of {}; move it away".format(
            final, ', '.join(f.name for f in model.files)))
    os.makedirs(unfinished, exist_ok=True)
    if say:
        say('Downloading {} to {}'.format(model.name, final))
    for file in model.files:
        target = os.path.join(unfinished, file.name)
        if not os.path.exists(target):
            (_fetch_from_drive if urlsplit(file.address).hostname == 'drive.google.com' else _fetch_from_web)(
                file.address, target, say is not None)
    _note_digests(model, unfinished)
    if model.flags is not None:
        _check_readable(model, unfinished)
    os.rename(unfinished, final)


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        for piece in iter(lambda: f.read(_READ), b''):  # hashlib.file_digest is not in Python before 3.11
            digest.update(piece)
    return digest.hexdigest()


def _note_digests(model: published.Model, unfinished: str) -> None:
    """Write the files' SHA-256 beside them, to see later that they are still the same; published ones must agree."""
    digests = {file.name: _digest(os.path.join(unfinished, file.name)) for file in model.files}
    for file in model.files:
        if file.sha256 and digests[file.name] != file.sha256:
            os.remove(os.path.join(unfinished, file.name))
            raise OSError('{} came with the SHA-256 {}, and {} is published; it was removed'.format(
                file.name, digests[file.name], file.sha256))
    write_text(os.path.join(unfinished, SUMS), ''.join(
        '{}  {}\n'.format(digest, name) for name, digest in digests.items()))


def check_unchanged(model: published.Model, folder: str) -> None:
    """Compare the files of a downloaded model with their SHA-256, as published or else as they came.

    Raises:
        OSError: a file is another, or what was noted is damaged.
    """
    place = os.path.join(folder, model.name)
    noted = _noted(os.path.join(place, SUMS))
    for file in model.files:
        wanted = file.sha256 or noted.get(file.name)
        found = wanted and _digest(os.path.join(place, file.name))
        if found != wanted:
            raise OSError("'{}' is not the file that was downloaded: its SHA-256 is {}, and was {}; move '{}' away and "
                          'download it again'.format(os.path.join(place, file.name), found, wanted, place))


def _noted(path: str) -> Dict[str, str]:
    if not os.path.isfile(path):  # of a folder that the user has made
        return {}
    with open(path) as f:
        lines = [re.fullmatch(r'([0-9a-f]{64})  (.+)\n', line) for line in f]
    found = {line.group(2): line.group(1) for line in lines if line}
    if not all(lines):
        raise OSError("'{}' is damaged; remove it if you trust the files beside it".format(path))
    return found


def _check_readable(model: published.Model, unfinished: str) -> None:
    """Every byte has a checksum in a checkpoint; Google Drive tells no sizes before."""
    try:
        read_checkpoint(os.path.join(unfinished, model.prefix))
    except ValueError as error:
        for name in os.listdir(unfinished):
            os.remove(os.path.join(unfinished, name))
        raise OSError('what came is damaged, and was removed: {}'.format(error)) from error


def _fetch_from_drive(address: str, target: str, show: bool) -> None:
    import gdown  # makes a folder in the user's home
    from gdown.exceptions import FileURLRetrievalError
    try:
        # It would save cookies in the user's home, which may not be writable.
        with _files_closed():
            gdown.download(address, target, quiet=not (show and sys.stderr.isatty()), use_cookies=False, resume=True)
    except (FileURLRetrievalError, KeyError) as error:  # KeyError: an answer without the usual headers
        raise OSError("Google Drive does not give out {}, after too many downloads for example; save it from {} with a "
                      "browser as '{}' and run this again".format(os.path.basename(target), address, target)) from error
    if not os.path.isfile(target):  # gdown says so on stderr
        raise OSError("gdown did not bring '{}'; remove the files '{}*{}'".format(target, target, PART))


@contextlib.contextmanager
def _files_closed() -> Iterator[None]:
    """gdown leaves its file open where it fails, with the last bytes still to be written."""
    try:
        yield
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


def _fetch_from_web(address: str, target: str, show: bool) -> None:
    part = target + PART
    response, begin = _ask(address, os.path.getsize(part) if os.path.exists(part) else 0)
    with response:
        length = response.headers.get('Content-Length')
        total = begin + int(length) if length else None
        try:
            with open(part, 'ab' if begin else 'wb') as f, tqdm(
                    desc=os.path.basename(target), initial=begin, total=total, unit='B', unit_scale=True,
                    disable=None if show else True) as bar:
                for piece in response.iter_content(_PIECE):
                    f.write(piece)
                    bar.update(len(piece))
                f.flush()
                os.fsync(f.fileno())
        except requests.RequestException as error:
            raise OSError('the connection to {} broke after {:,} of {} bytes; run this again to continue'.format(
                _host(address), os.path.getsize(part), '{:,}'.format(total) if total else 'unknown')) from error
    size = os.path.getsize(part)
    if total is not None and size != total:
        raise OSError('{} of {} has {:,} bytes instead of {:,}; run this again'.format(
            os.path.basename(target), _host(address), size, total))
    os.replace(part, target)


def _ask(address: str, have: int) -> Tuple[requests.Response, int]:
    """(response, first byte of the file that it holds): from byte ``have`` on if the server can do that, else all."""
    for begin in (have, 0) if have else (0,):
        headers = {'Accept-Encoding': 'identity'}  # or the length would not be the file's
        if begin:
            headers['Range'] = 'bytes={}-'.format(begin)
        response = requests.get(address, headers=headers, stream=True, timeout=_SECONDS)
        if begin and response.status_code == 416:  # not the file that this is the beginning of, or all of it
            response.close()
            continue
        if not response.ok:
            response.close()
            raise OSError('{} answers {} {} for {}'.format(
                _host(address), response.status_code, response.reason, address))
        if response.headers.get('Content-Type', '').startswith('text/html'):
            response.close()
            raise OSError('{} answers with a page instead of a file for {}'.format(_host(address), address))
        if response.status_code == 206 and _first_byte(response) != begin:
            response.close()
            continue
        return response, begin if response.status_code == 206 else 0
    raise OSError('{} answers with another part of {} than asked for'.format(_host(address), address))


def _first_byte(response: requests.Response) -> Optional[int]:
    found = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    return int(found.group(1)) if found else None


def _host(address: str) -> str:
    return urlsplit(address).netloc


def _in_words(error: OSError) -> str:
    """One line, without the layers of libraries that requests names."""
    if isinstance(error, requests.RequestException):
        host = _host(error.request.url) if error.request is not None else 'the server'
        if isinstance(error, requests.Timeout):
            return '{} does not answer in time'.format(host)
        if isinstance(error, requests.exceptions.SSLError):
            return '{} has no valid certificate'.format(host)
        return 'cannot reach {}, or it broke off; is there a connection? Run this again to continue'.format(host)
    return reason(error)
