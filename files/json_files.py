"""JSON files, checked as they are read."""
from files.typed import Malformed, parse


def read_json(path, check, advice=''):
    """Content of a JSON file, as ``check`` of ``files/typed.py`` lets it pass.

    Raises:
        ValueError: it is damaged or something else; ``advice`` is added to the message.
    """
    return read_checked(path, lambda content: parse(content, check, 'in it'), advice)


def read_checked(path, read, advice=''):
    with open(path, 'rb') as f:
        content = f.read()
    try:
        return read(content)
    except Malformed as error:
        raise ValueError("'{}' is damaged ({}){}".format(path, error, advice)) from error
