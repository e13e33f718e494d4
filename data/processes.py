"""Processes that end together: signals that end the server, and workers that outlive no parent."""
import contextlib
import ctypes
import os
import signal
import sys
from typing import Any, Iterator, List, Set

ENDING = 3.0  # seconds that workers have to end when they are asked to, before they are killed
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_arrived: List[int] = []  # the signal that is to stop this process


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived.

    Attributes:
        exit_code (int): 128 + the signal's number.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


def stop_on_signals() -> None:
    """From now on SIGINT and SIGTERM raise ``Stopped`` in the main thread, once. See ``check_stopped``."""
    def stop(signum: int, _: Any) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # already stopping
        _arrived.append(signum)
        raise Stopped(signum)
    for number in SIGNALS:
        signal.signal(number, stop)
    report = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, Stopped) else report(lost)


def check_stopped() -> None:
    """Raise ``Stopped`` if a signal has arrived. For each turn of a loop that only a signal ends.

    What a signal's handler raises is lost where Python code runs that cannot raise: a destructor, a callback of C, a
    call of pyzmq's within another one.
    """
    if _arrived:
        raise Stopped(_arrived[0])


@contextlib.contextmanager
def signals_blocked() -> Iterator[Set[Any]]:
    """While processes are forked. Gives the mask from before.

    A signal that arrived in a child before it has left this process's handlers would be handled twice.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
