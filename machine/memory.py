"""Memory that a process has freed."""
import ctypes


def give_back() -> None:
    """Hand the system what was freed and the C library keeps for later; nothing where that is not glibc."""
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
        trim(0)
