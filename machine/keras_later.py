"""TensorFlow and tensorpack without Keras, until somebody uses that.

Their imports would load it, and with it scikit-learn, Matplotlib and more: two seconds and 110 MiB of a process that
wants none of them.
"""
import contextlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any, Iterator, Optional, Sequence

_KERAS = 'keras', 'tf_keras'


class _Refuser(importlib.abc.Loader):
    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError('{} is loaded when it is used'.format(module.__name__))


class _NotNow(importlib.abc.MetaPathFinder):
    """Finds Keras where it is, as TensorFlow asks for its folder, and does not load it."""

    def find_spec(self, name: str, path: Optional[Sequence[str]],
                  target: Optional[ModuleType] = None) -> Optional[ModuleSpec]:
        spec = PathFinder.find_spec(name, path) if name in _KERAS else None
        if spec:
            spec.loader = _Refuser()
        return spec


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """For TensorFlow, which takes a Keras that is refused for one that is not installed. Its names that are Keras's
    load it later."""
    finder = _NotNow()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def _lent() -> Iterator[None]:
    """For tensorpack, which looks up `tf.layers` and `tf.keras.regularizers.l1`."""
    import tensorflow

    def l1(*args: Any) -> Any:
        return tensorflow.keras.regularizers.l1(*args)
    lent = [(vars(tensorflow.keras), 'regularizers', SimpleNamespace(l1=l1)),
            (vars(tensorflow), 'layers', tensorflow.compat.v1.layers)]
    lent = [(names, name, value) for names, name, value in lent if name not in names]
    for names, name, value in lent:
        names[name] = value
    try:
        yield
    finally:
        for names, name, _ in lent:
            del names[name]


_DURING = {'tensorflow': _refused, 'tensorpack': _lent}  # the import of each


class _Without(importlib.abc.MetaPathFinder):
    """Imports these packages as ever, in the state of ``_DURING``."""

    def find_spec(self, name: str, path: Optional[Sequence[str]],
                  target: Optional[ModuleType] = None) -> Optional[ModuleSpec]:
        if name not in _DURING:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with _DURING[name]():
                    execute(module)
            loader.exec_module = exec_module
        return spec


def load_keras_later() -> None:
    """Let the imports of TensorFlow and tensorpack leave Keras out; to be called before the first of them."""
    if not any(isinstance(finder, _Without) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Without())
