"""Where a thread's time goes: the seconds it spent in each named activity, without those that it spent in inner
ones."""
import contextlib
import threading
import time
from typing import Iterator

ACTIVITIES = ('read', 'decode', 'augment', 'batch')


class Stopwatch(threading.local):
    """Adds up seconds, for each thread on its own. ``seconds`` (dict): those of each activity so far."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._inner = 0.0  # seconds of activities that ended inside the present one

    @contextlib.contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Count the time in the ``with`` block as ``activity``."""
        outer, self._inner = self._inner, 0.0
        begin = time.perf_counter()
        try:
            yield
        finally:
            total = time.perf_counter() - begin
            self.seconds[activity] += total - self._inner
            self._inner = outer + total


stopwatch = Stopwatch()
