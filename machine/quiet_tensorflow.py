"""Makes TF_CPP_MIN_LOG_LEVEL hold from TensorFlow's first moment on: a user's mistake is one line on stderr.

TensorFlow 2.21 says some things while it is imported, before it has looked at that variable.
"""
import contextlib
import importlib.abc
import importlib.util
import os
import re
import sys
import tempfile
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Iterator, Optional, Sequence

from machine.keras_later import load_keras_later

LEVELS = 'IWEF'  # INFO, WARNING, ERROR, FATAL; the variable's value is the first that is printed
PREFACE = rb'WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR'


@contextlib.contextmanager
def without_log_lines(letters: str) -> Iterator[None]:
    """Hold back what is written to stderr meanwhile, then write it but for log lines of these levels."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            unwanted = re.compile(rb'(%s|[%s]\d{4} [\d:.]+ +\d+ \S+:\d+\] .*)\n?' % (PREFACE, letters.encode()))
            for line in said:
                if not unwanted.fullmatch(line):
                    os.write(2, line)


class _QuietImport(importlib.abc.MetaPathFinder):
    """Imports TensorFlow as ever, with the log lines held back that are not wanted."""

    def find_spec(self, name: str, path: Optional[Sequence[str]],
                  target: Optional[ModuleType] = None) -> Optional[ModuleSpec]:
        if name != 'tensorflow':
            return None
        sys.meta_path.remove(self)
        level = os.environ.get('TF_CPP_MIN_LOG_LEVEL', '')
        spec = importlib.util.find_spec(name)
        if spec and level.isdigit() and int(level) > 0:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with without_log_lines(LEVELS[:int(level)]):
                    execute(module)
            loader.exec_module = exec_module
        return spec


def quieten_tensorflow(level: int = 2) -> None:
    """Let TensorFlow log from a level on, and load Keras when that is used; to be called before its first import.

    Args:
        level (int): of TF_CPP_MIN_LOG_LEVEL, where the user has not set it; 1 hides information, 2 warnings, 3 errors
            too.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', str(level))
    if not any(isinstance(finder, _QuietImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietImport())
    load_keras_later()
