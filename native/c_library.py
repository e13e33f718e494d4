"""Libraries of this project's own C functions, which `make setup` compiles."""
import ctypes


def load(title, path):
    """The library at ``path``; its functions run without Python's lock.

    Args:
        title (str): of its package, for messages.
    Raises:
        ValueError: it has not been built, or was built for another system.
    """
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise ValueError('{}: {} cannot be loaded; run `make setup` ({})'.format(title, path, error)) from None
