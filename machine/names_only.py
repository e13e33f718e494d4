"""Help and completion without TensorFlow: they need the names alone of modules that take seconds to import with it."""
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Optional, Sequence

HELP = ('-h', '--help', '--help-all')
_LIBRARIES = ('tensorflow', 'tensorpack')


class _AnyName(type):
    """Has every name, each of which is a class like itself."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return _Anything


class _Anything(metaclass=_AnyName):
    """Stands for whatever a module of those libraries has: a base class, a type in a hint, a default, a function."""

    def __init__(self, *given: Any, **named: Any) -> None:
        """Takes what any function takes."""


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return _Anything


class _Imports(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of the libraries, with nothing in it."""

    def find_spec(self, name: str, path: Optional[Sequence[str]],
                  target: Optional[ModuleType] = None) -> Optional[ModuleSpec]:
        if name.split('.')[0] not in _LIBRARIES:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


def names_only() -> None:
    """Let this process, which is to tell names and nothing else, import this project's modules without TensorFlow.

    Does nothing where TensorFlow is there already.
    """
    if not set(_LIBRARIES) & set(sys.modules):
        sys.meta_path.insert(0, _Imports())


def names_only_for_help(words: Sequence[str]) -> None:
    """``names_only`` where the words of a command line ask for help."""
    if set(HELP) & set(words):
        names_only()
