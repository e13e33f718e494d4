"""JSON files, checked as they are read."""
from typing import Any, Callable

from files.typed import Check, Malformed, parse


def read_json(path: str, check: Check, advice: str = '') -> Any:
    """Content of a JSON file, as ``check`` of ``files/typed.py`` lets it pass.

    Raises:
        ValueError: it is damaged or something else; ``advice`` is added to the message.
    """
    return read_checked(path, lambda content: parse(content, check, 'in it'), advice)


def read_checked(path: str, read: Callable[[bytes], Any], advice: str = '') -> Any:
    with open(path, 'rb') as f:
        content = f.read()
    try:
        return read(content)
    except Malformed as error:
        raise ValueError("'{}' is damaged ({}){}".format(path, error, advice)) from error
