"""Files of the format safetensors: written by its package, and read through its check of the whole header.

The package's NumPy part has no bfloat16, so the numbers themselves are read here, at the offsets of the header.
"""
import json
import os
import struct
from typing import Any, Dict, Mapping, Tuple

import numpy as np

from weights.torch_files import element_type

_TYPES = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16', 'I64': 'int64', 'I32': 'int32',
          'I16': 'int16', 'I8': 'int8', 'U64': 'uint64', 'U32': 'uint32', 'U16': 'uint16', 'U8': 'uint8',
          'BOOL': 'bool'}
_METADATA = '__metadata__'


def _package() -> Any:
    """The package: in an environment from before it was asked for, all but these files can be read.

    Raises:
        ValueError: it is not there.
    """
    try:
        import safetensors.numpy
    except ImportError:
        raise ValueError('the package safetensors is not installed: run `make setup`') from None
    return safetensors


def write_file(path: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays, in C order, and texts, each by its name; on the disk when it returns."""
    _package().numpy.save_file(dict(arrays), path, dict(metadata))
    with open(path, 'rb') as f:
        os.fsync(f.fileno())


class SafetensorsFile:
    """The arrays of a file, read when they are asked for.

    Attributes:
        shapes (dict): name to shape. metadata (dict): texts by name.
    Raises:
        ValueError and the package's own error: damaged, cut short, or of a type of numbers that NumPy has not.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with _package().safe_open(path, 'numpy') as f:  # checks names, shapes, offsets and the file's length
            self.metadata: Dict[str, str] = f.metadata() or {}
        with open(path, 'rb') as file:
            length, = struct.unpack('<Q', file.read(8))
            header = json.loads(file.read(length))
        self._begin = 8 + length
        self._entries = {name: entry for name, entry in header.items() if name != _METADATA}
        for name, entry in self._entries.items():
            if entry['dtype'] not in _TYPES:
                raise ValueError('{} is of type {}'.format(name[:200], entry['dtype']))
        self.shapes: Dict[str, Tuple[int, ...]] = {
            name: tuple(entry['shape']) for name, entry in self._entries.items()}

    def array(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        first, last = entry['data_offsets']
        with open(self._path, 'rb') as f:
            f.seek(self._begin + first)
            content = f.read(last - first)
        dtype = element_type(_TYPES[entry['dtype']])
        if not content:
            return np.zeros(self.shapes[name], dtype)
        return np.frombuffer(content, dtype).reshape(self.shapes[name])
