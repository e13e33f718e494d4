"""A file is written whole or not at all, and one that is there is kept."""
import os
from typing import Optional

UNFINISHED = '.writing'


def write_text(path: str, text: str) -> None:
    """Write a file whole or not at all, in UTF-8; names of files that are none of it have their own bytes there."""
    write_bytes(path, text.encode('utf-8', 'surrogateescape'))


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path + UNFINISHED
    with open(temporary, 'wb') as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def keep_older(path: str) -> Optional[str]:
    """Rename a file that is there already, by a number before its ending.

    Returns:
        str: its new path; None where there is none.
    """
    if not os.path.exists(path):
        return None
    stem, extension = os.path.splitext(path)
    number = 1
    while os.path.exists('{}.{}{}'.format(stem, number, extension)):
        number += 1
    os.rename(path, '{}.{}{}'.format(stem, number, extension))
    return '{}.{}{}'.format(stem, number, extension)
