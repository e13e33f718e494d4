"""Files of PyTorch's, read without PyTorch: zip archives, and the older sequence of pickles with raw numbers behind."""
import io
import os
import re
import struct
import zipfile
from typing import Any, BinaryIO, Dict, Tuple

import numpy as np
import tensorflow.compat.v1 as tf

from weights import torch_pickle
from weights.torch_pickle import Storage, Tensor

_LEGACY_MAGIC, _LEGACY_VERSION = 0x1950a86a20f9469cfc6c, 1001
_ZIP_BEGINS = b'PK\x03\x04'
_LONGEST_PICKLE = 1 << 28


def element_type(name: str) -> np.dtype:
    """NumPy's type of that name; bfloat16 is TensorFlow's."""
    return np.dtype(tf.bfloat16.as_numpy_dtype if name == 'bfloat16' else name)


class TorchFile:
    """The object in a file, and the numbers of its tensors, read when they are asked for.

    Attributes:
        content: dictionaries, lists, numbers, texts and ``Tensor``s.
    Raises:
        ValueError and others: not a whole file of PyTorch's, or one that holds more than tensors and plain values.
    """

    def __init__(self, path: str) -> None:
        with open(path, 'rb') as f:
            zipped = f.read(len(_ZIP_BEGINS)) == _ZIP_BEGINS
        self._rows = (_Zip if zipped else _Legacy)(path)
        self.content = self._rows.content
        for storage in self._rows.storages.values():
            self._check(storage)
        # Of a storage that several tensors share.
        self._kept: Dict[str, bytes] = {}

    def _check(self, storage: Storage) -> None:
        """Refuse a storage that the file does not have in full; nothing is read of it."""
        held, wanted = self._rows.length(storage.key), storage.of * element_type(storage.dtype).itemsize
        if held != wanted:
            raise ValueError('storage {} has {} bytes in the file, and its {} numbers of type {} are {}'.format(
                storage.key[:60], held, storage.of, storage.dtype, wanted))

    def array(self, tensor: Tensor, shared: bool = False) -> np.ndarray:
        """The array of a tensor of this file, contiguous.

        shared: keep what was read, for other tensors of the same storage.
        """
        storage, dtype = tensor.storage, element_type(tensor.storage.dtype)
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, dtype)
        content = self._kept.get(storage.key) or self._rows.read(storage.key)
        if shared:
            self._kept[storage.key] = content
        values = np.frombuffer(content, np.uint8 if storage.dtype == 'bool' else dtype)
        if storage.dtype == 'bool':
            values = values != 0
        elif self._rows.big_endian:
            values = values.view('u{}'.format(dtype.itemsize)).byteswap().view(dtype)
        values = values[storage.first:storage.first + storage.length][tensor.offset:]
        strides = tuple(stride * values.itemsize for stride in tensor.strides)
        return np.array(np.lib.stride_tricks.as_strided(values, tensor.shape, strides, writeable=False), order='C')


class _Zip:
    """A folder with data.pkl, data/KEY for each storage and, in later versions, ``byteorder``."""
    _PICKLE = re.compile(r'([^/]*/)?data\.pkl')

    def __init__(self, path: str) -> None:
        self._archive = zipfile.ZipFile(path)
        self._size = os.path.getsize(path)
        names = self._archive.namelist()
        pickles = [name for name in names if self._PICKLE.fullmatch(name)]
        if len(pickles) != 1 or len(set(names)) < len(names):
            raise ValueError('it is a zip archive, but not one of PyTorch')
        self._folder = pickles[0][:-len('data.pkl')]
        if self._info('data.pkl').file_size > _LONGEST_PICKLE:
            raise ValueError('data.pkl has {} bytes'.format(self._info('data.pkl').file_size))
        self.big_endian = self._folder + 'byteorder' in names and self._bytes('byteorder') == b'big'
        self.content, self.storages = torch_pickle.load(io.BytesIO(self._bytes('data.pkl')))

    def _info(self, name: str) -> zipfile.ZipInfo:
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or \
                info.header_offset + info.file_size > self._size:
            raise ValueError('{} is compressed, or longer than the file'.format(name[:60]))
        return info

    def _bytes(self, name: str) -> bytes:
        return self._archive.read(self._info(name))

    def length(self, key: str) -> int:
        return self._info('data/' + key).file_size

    def read(self, key: str) -> bytes:
        return self._bytes('data/' + key)


class _Legacy:
    """Pickles of a magic number, a version, the system, the object and the storages' keys; then the storages, each with
    its number of elements before it."""
    big_endian = False  # as PyTorch writes these on every system

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, 'rb') as f:
            if torch_pickle.load(f)[0] != _LEGACY_MAGIC or torch_pickle.load(f)[0] != _LEGACY_VERSION:
                raise ValueError('it is no file of PyTorch')
            torch_pickle.load(f)
            self.content, self.storages = torch_pickle.load(f)
            self._places = self._find(f, torch_pickle.load(f)[0])

    def _find(self, f: BinaryIO, keys: Any) -> Dict[str, Tuple[int, int]]:
        """Key to first byte and length in bytes of each storage."""
        places, end = {}, os.fstat(f.fileno()).st_size
        for key in keys:
            count, = struct.unpack('<q', f.read(8))
            length = count * element_type(self.storages[key].dtype).itemsize
            if count < 0 or f.tell() + length > end:
                raise ValueError('it ends within storage {}'.format(key[:60]))
            places[key] = f.tell(), length
            f.seek(length, os.SEEK_CUR)
        if f.tell() != end:
            raise ValueError('{} bytes stand behind its last storage'.format(end - f.tell()))
        return places

    def length(self, key: str) -> int:
        return self._places[key][1]

    def read(self, key: str) -> bytes:
        first, length = self._places[key]
        with open(self._path, 'rb') as f:
            f.seek(first)
            return f.read(length)
