"""A data server that sends nothing: said from time to time, until its batches come again or the run gives up."""
import threading
import time

from tensorpack.callbacks import Callback

FIRST_SAID = 30.0  # seconds without a batch until that is said; then again after twice, four times as long, ...
LOOK = 1.0  # seconds between two looks at how long a wait has lasted


class Silence:
    """What is said of waits for a batch.

    Args:
        timeout (float): seconds after which a wait ends the run, 0 for no limit.
        tell: (str) -> None.
    """

    def __init__(self, timeout, tell):
        self.timeout, self._tell = timeout, tell
        self._next = FIRST_SAID

    def waited(self, seconds):
        """Say it, if it is time, of a wait that has lasted so long and goes on."""
        if seconds < self._next or self.timeout and seconds >= self.timeout:
            return
        while self._next <= seconds:
            self._next *= 2
        self._tell('no data for {:.0f} s, waiting {}'.format(seconds, 'until {} (--data-timeout {:g})'.format(
            time.strftime('%H:%M:%S', time.localtime(time.time() + self.timeout - seconds)), self.timeout)
            if self.timeout else 'without an end (--data-timeout 0)'))

    def ended(self, seconds):
        """A batch has come after so many seconds."""
        if self._next > FIRST_SAID:
            self._tell('data again after {:.0f} s'.format(seconds))
        self._next = FIRST_SAID


class WatchPulls(Callback):
    """Watches the op that waits for a batch, from a thread of its own, while training lasts.

    ``begin`` and ``end`` are called by the graph, before and after each pull.

    Args:
        silence (Silence).
    """
    _chief_only = False

    def __init__(self, silence):
        self._silence = silence
        self._began = None
        self._over = threading.Event()

    def begin(self):
        """A pull starts."""
        self._began = time.monotonic()

    def end(self):
        """It has got its batch."""
        self._silence.ended(time.monotonic() - self._began)
        self._began = None

    def _before_train(self):
        self._over.clear()
        threading.Thread(target=self._look, name='silence', daemon=True).start()

    def _after_train(self):
        self._over.set()

    def _look(self):
        while not self._over.wait(LOOK):
            began = self._began
            if began is not None:
                self._silence.waited(time.monotonic() - began)
