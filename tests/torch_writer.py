"""Files as PyTorch writes them, of dictionaries of NumPy's arrays, for the tests."""
import struct
import zipfile

import numpy as np

_STORAGES = {'float32': 'FloatStorage', 'int64': 'LongStorage', 'float64': 'DoubleStorage'}


def save(path, content):
    """Write ``content``, dictionaries of dictionaries, arrays and numbers, as a zip archive; returns its path, str."""
    storages = []
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', b'\x80\x02' + _object(content, storages) + b'.')
        archive.writestr('x/byteorder', 'little')
        for key, value in enumerate(storages):
            archive.writestr('x/data/{}'.format(key), np.ascontiguousarray(value).tobytes())
    return str(path)


def _object(value, storages):
    if isinstance(value, dict):
        return b'}(' + b''.join(_text(name) + _object(each, storages) for name, each in value.items()) + b'u'
    if isinstance(value, np.ndarray):
        return _tensor(value, storages)
    return _number(value)


def _text(text):
    return b'X' + struct.pack('<I', len(text.encode())) + text.encode()


def _number(number):
    return b'\x8a\x08' + struct.pack('<q', number)


def _tensor(value, storages):
    """Equal objects share a storage."""
    key = next((key for key, each in enumerate(storages) if each is value), len(storages))
    if key == len(storages):
        storages.append(value)
    strides = np.cumprod([1, *value.shape[:0:-1]])[::-1] if value.ndim else []
    return (b'ctorch._utils\n_rebuild_tensor_v2\n((' + _text('storage') + b'ctorch\n'
            + _STORAGES[value.dtype.name].encode() + b'\n' + _text(str(key)) + _text('cpu') + _number(value.size)
            + b'tQ' + _number(0) + b'(' + b''.join(map(_number, value.shape)) + b't('
            + b''.join(map(_number, map(int, strides))) + b't\x89)tR')
