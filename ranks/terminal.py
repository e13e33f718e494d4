"""What of all that is logged reaches the terminal, and what is kept in a run's log.log.

| what | terminal | log.log |
|---|---|---|
| ``say``: what a command tells its user | folded to ``COLUMNS`` | a line |
| warnings and errors of any module, ``warn_anywhere`` | yes | yes |
| all else: flags, variables, values of each epoch, notes of tensorpack and Horovod | with ``--verbose`` | yes |

All of it comes from the first rank, but for errors and ``warn_anywhere``. Refusals are no log: ``ranks.end.fail``
writes them to stderr. TensorFlow's own log is ``machine.quiet_tensorflow``'s.
"""
import logging
import os
import re
import shlex
import shutil
import sys
import textwrap
from typing import Any

from tqdm import tqdm

from ranks.launched import launched_rank

COLUMNS = 80
# tensorpack's logger, which the rooms with TensorFlow share, and those of the rooms without it.
ROOMS = ('tensorpack', 'data', 'files')
_SAID = logging.getLogger('tensorpack.said')
_ANYWHERE = logging.getLogger('tensorpack.anywhere')
_ANYWHERE.setLevel(logging.INFO)  # whatever is asked of tensorpack's, which only the first rank leaves there

_ESCAPE = re.compile(r'\x1b\[[0-9;]*m')
_MARKS = {logging.WARNING: 'warning: ', logging.ERROR: 'error: ', logging.CRITICAL: 'error: '}


def say(text: str) -> None:
    """Tell the user something; a line that begins with a space is not folded."""
    _SAID.info(text, stacklevel=2)


def row(label: str, text: str) -> str:
    """A line of a table that ``say`` is given: a word, and what there is to say of it."""
    return '{:<12}{}'.format(label, text)


def warn_anywhere(text: str) -> None:
    """Warn, whichever rank this is."""
    _ANYWHERE.warning(text, stacklevel=2)


class _Plain(logging.Formatter):
    """Time, place and text, without the codes that colour a terminal."""

    def __init__(self) -> None:
        super().__init__('[%(asctime)s @%(filename)s:%(lineno)d] %(mark)s%(message)s', '%m%d %H:%M:%S')

    def format(self, record: logging.LogRecord) -> str:
        record.mark = _MARKS.get(record.levelno, '')
        return _ESCAPE.sub('', super().format(record))


class _Folded(logging.Formatter):
    """The text alone."""

    def format(self, record: logging.LogRecord) -> str:
        text = _MARKS.get(record.levelno, '') + _ESCAPE.sub('', super().format(record))
        return fold(text) if record.name == _SAID.name else text


def fold(text: str) -> str:
    """``text`` in lines of at most ``COLUMNS``, but for words that are longer; what follows a line's first one is
    indented as the text behind the line's label, which has two spaces behind it."""
    lines = []
    for line in text.split('\n'):
        label = re.match(r'\S+ {2,}', line)
        lines += [line] if line.startswith(' ') else textwrap.wrap(
            line, COLUMNS, subsequent_indent=' ' * (label.end() if label else 4), break_long_words=False,
            break_on_hyphens=False) or ['']
    return '\n'.join(lines)


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]  # at run time it has no parameter in Python 3.9
    """Writes above a bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=self.stream):
            super().emit(record)


def open_terminal(verbose: bool = False) -> None:
    """Let the terminal have what it is to have from now on, in place of tensorpack's handler."""
    library = logging.getLogger('tensorpack')
    stream: Any = sys.stdout
    for handler in library.handlers[:]:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            stream = handler.stream
            library.removeHandler(handler)
    terminal = _Terminal(stream)
    terminal.setFormatter(_Plain() if verbose else _Folded())
    terminal.addFilter(lambda record: verbose or record.levelno >= logging.WARNING or record.name == _SAID.name)
    library.addHandler(terminal)
    for name in ROOMS[1:]:
        _only_one(logging.getLogger(name), terminal, _Terminal)


def keep_log(folder: str) -> None:
    """Keep all that is logged from now on in log.log of ``folder``; a file of that name that is there is renamed."""
    from tensorpack.utils import logger
    library = logging.getLogger('tensorpack')
    level = library.level
    library.setLevel(logging.ERROR)  # its first line has colours
    try:
        logger.set_logger_dir(folder, action='k')
    finally:
        library.setLevel(level)
    kept = library.handlers[-1]  # what it has added
    kept.setFormatter(_Plain())
    for name in ROOMS[1:]:
        _only_one(logging.getLogger(name), kept, logging.FileHandler)
    library.info('Command: %s', shlex.join(sys.argv))


def _only_one(room: logging.Logger, handler: logging.Handler, kind: type) -> None:
    """Add a handler in place of earlier ones of its kind."""
    for earlier in room.handlers[:]:
        if isinstance(earlier, kind):
            room.removeHandler(earlier)
    room.addHandler(handler)


def has_reader() -> bool:
    """Whether somebody looks at stderr while it is written: it is a terminal, or goes to a launcher whose stderr is
    one. What a file gets is read later."""
    if sys.stderr.isatty():
        return True
    if launched_rank() is None:
        return False
    try:
        return os.readlink('/proc/{}/fd/2'.format(os.getppid())).startswith(('/dev/pts/', '/dev/tty'))
    except OSError:  # another system than Linux, or a launcher of another user
        return False


def bar(total: int, what: str, shown: bool = True, done: int = 0) -> Any:
    """A progress bar of one line, which is gone when it is closed; none unless ``shown`` and ``has_reader``.

    Args:
        total (int), done (int): of its steps or images. what (str): its title.
    Returns:
        tqdm.tqdm: to be closed, or used as a context.
    """
    return tqdm(total=total, initial=done, desc=what, disable=not (shown and has_reader()), leave=False, ascii=True,
                ncols=min(COLUMNS, shutil.get_terminal_size().columns) - 1, mininterval=0.5, smoothing=0.5,
                bar_format='{l_bar}{bar}|{n_fmt}/{total_fmt}[{elapsed}<{remaining},{rate_noinv_fmt}{postfix}]')
