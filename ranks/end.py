"""How a rank ends: one line that says why, from those that know, and an exit code."""
import contextlib
import contextvars
import os
import sys
from typing import Any, Iterator, NoReturn, Union

from ranks.launched import launched_rank

_OTHER_ENDED = 'Horovod has been shut down'  # what Horovod says in the ranks that are left
_RAISES = contextvars.ContextVar('raises', default=False)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Meanwhile, in this thread, ``fail`` raises ValueError: for who calls a part of a program from Python."""
    before = _RAISES.set(True)
    try:
        yield
    finally:
        _RAISES.reset(before)


def reason(error: Any) -> str:
    """What an OSError or one of TensorFlow's errors says, in one line, without the graph's part in it."""
    if isinstance(error, OSError):
        return str(error) if error.errno is None else '{}{}'.format(
            error.strerror, " ('{}')".format(error.filename) if error.filename else '')
    # TensorFlow puts the place in the program above the message, and the node behind it.
    lines = [type(error).__name__] + error.message.split('\n\t [[')[0].split('\n')
    return next(line for line in reversed(lines) if line.strip()).strip()


def end_by(error: Any) -> NoReturn:
    """End this process with exit code 2, because of an OSError or one of TensorFlow's errors, in one line.

    Every rank that knows a reason says it. That another rank has ended is news on the first rank only. Among several
    ranks the process ends at once: the launcher then ends the others, while Horovod's own end would wait for them.
    """
    rank, text = launched_rank(), reason(error)
    if rank is None:
        fail(text, 0)
    if _OTHER_ENDED in text:
        fail_at_once('another rank has ended; what it or the launcher says is the reason', rank)
    fail_at_once('rank {}: {}'.format(rank, text), 0)


def fail(message: Union[str, Exception], rank: int, code: int = 2) -> NoReturn:
    """End this process with this exit code, saying why in one line, on rank 0 only; or see ``raising``."""
    if _RAISES.get():
        raise ValueError(' '.join(str(message).split()))
    if rank == 0:
        print('{}: error: {}'.format(os.path.basename(sys.argv[0]), ' '.join(str(message).split())), file=sys.stderr)
        sys.stderr.flush()
    sys.exit(code)


def fail_at_once(message: str, rank: int) -> NoReturn:
    """As ``fail``, also in a thread beside others that wait for ever: without any of Python's or Horovod's own ends."""
    try:
        fail(message, rank)
    finally:
        os._exit(2)
