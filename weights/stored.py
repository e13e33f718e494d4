"""A checkpoint on disk as arrays by name, of which the names and shapes are known before any array is read."""
import collections.abc
import contextlib
import re
import zipfile
from typing import NamedTuple, Optional, Tuple

import numpy as np
import tensorflow.compat.v1 as tf

from weights.pytorch import PyTorchFile, Told, is_pytorch

# The entry of an .npz that says what network it is (see ``weights.card``): a name that no variable of TensorFlow's can
# have. Its array is of bytes, so many at most.
ENTRY = '__network__.json'
_LONGEST_ENTRY = 1 << 24


class _Header(NamedTuple):
    """What is known of an array that has not been read. key: its name in the file."""
    key: str
    shape: Tuple[int, ...]


class Stored(collections.abc.Mapping):
    """The variables of a checkpoint: names, without ':0', to arrays, each of which is read when it is asked for.

    Args:
        path (str): an .npz or .npy file, one of PyTorch's or of safetensors, whose variables have this project's names
            and layouts here, or the prefix of a TensorFlow checkpoint; see ``find_checkpoint``.
    Attributes:
        path. shapes (dict): name to tuple of int. entry (bytes): of an .npz, the array ``ENTRY``, of safetensors the
        metadata of that name; None without one. told (Told): what a file of PyTorch's says of its network; else None.
    Raises:
        ValueError: not readable as a checkpoint; also where an array is asked for.
    """

    def __init__(self, path):
        self.path, self._read = path, {}
        with self._readable():
            opened = (_Npz if path.endswith('.npz') else _Npy if path.endswith('.npy') else
                      _PyTorch if is_pytorch(path) else _TensorFlow)
            self._file = opened(path)
            self.told, self.entry = self._file.told, self._file.entry
            self._headers = {}
            for header in self._file.headers():
                name = re.sub(r':0$', '', header.key)
                if name in self._headers:
                    raise ValueError('{} is there twice'.format(name))
                self._headers[name] = header
            if ENTRY in self._headers:
                self.entry = self._read_entry(self._headers.pop(ENTRY))
        self.shapes = {name: header.shape for name, header in self._headers.items()}

    def __getitem__(self, name):
        header = self._headers[name]
        if name not in self._read:
            with self._readable():
                self._read[name] = self._file.read(header.key)
        return self._read[name]

    def __iter__(self):
        return iter(self._headers)

    def __len__(self):
        return len(self._headers)

    def _read_entry(self, header):
        if len(header.shape) != 1 or header.shape[0] > _LONGEST_ENTRY:
            raise ValueError('{} has the shape {}'.format(header.key, header.shape))
        return self._file.read(header.key).tobytes()

    @contextlib.contextmanager
    def _readable(self):
        try:
            yield
        except Exception as error:  # NumPy, zip and TensorFlow each have their own for a damaged file
            raise ValueError("--load '{}': not a readable checkpoint ({})".format(
                self.path, ' '.join(str(error).split()))) from error


class _Form:
    """A form of files: ``headers``, of what is in one, and ``read``, of an array by its key there.

    told, entry: as of ``Stored``.
    """
    told: Optional[Told] = None
    entry: Optional[bytes] = None


class _Npz(_Form):
    _ENDING = '.npy'

    def __init__(self, path):
        self._archive = zipfile.ZipFile(path)

    def headers(self):
        for member in self._archive.namelist():
            if member.endswith(self._ENDING):
                with self._archive.open(member) as f:
                    shape, dtype = self._header(f)
                key = member[:-len(self._ENDING)]
                if dtype.hasobject:
                    raise ValueError('{} holds Python objects, which can run code'.format(key))
                yield _Header(key, shape)

    @staticmethod
    def _header(f):
        """(shape, dtype) at the beginning of an .npy file; nothing else is read."""
        version = np.lib.format.read_magic(f)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError('an array of version {}.{}'.format(*version))
        shape, _, dtype = readers[version](f)
        return shape, dtype

    def read(self, key):
        with self._archive.open(key + self._ENDING) as f:
            value = np.lib.format.read_array(f, allow_pickle=False)
            if f.read(1):  # which also makes zipfile compare the checksum
                raise ValueError('{} is longer than its shape'.format(key))
        return value


class _Npy(_Form):
    def __init__(self, path):
        # tensorpack's older dictionaries are pickled; such a file can run code, as docs/evaluation.md warns.
        self._values = np.load(path, allow_pickle=True, encoding='latin1').item()

    def headers(self):
        return [_Header(name, np.shape(value)) for name, value in self._values.items()]

    def read(self, key):
        return self._values[key]


class _TensorFlow(_Form):
    def __init__(self, prefix):
        self._reader = tf.train.NewCheckpointReader(prefix)

    def headers(self):
        return [_Header(name, tuple(shape)) for name, shape in self._reader.get_variable_to_shape_map().items()]

    def read(self, key):
        return self._reader.get_tensor(key)


class _PyTorch(_Form):
    def __init__(self, path):
        self._file = PyTorchFile(path)
        self.told = self._file.told
        said = self._file.metadata.get(ENTRY)
        self.entry = None if said is None else said.encode()

    def headers(self):
        return [_Header(name, shape) for name, shape in self._file.headers()]

    def read(self, key):
        return self._file.read(key)


def fault_of(value):
    """What makes an array no weights, in words; None if nothing does."""
    value = np.asarray(value)
    floats = value.dtype.kind == 'f' or value.dtype.name == 'bfloat16'
    if not floats and value.dtype.kind not in 'iu':
        return 'of type {}'.format(value.dtype.name)
    with np.errstate(over='ignore'):
        if np.isfinite(value.astype(np.float32, copy=False)).all():
            return None
    return 'beyond float32' if np.isfinite(value).all() else 'not finite'
