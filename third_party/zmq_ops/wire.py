"""The bytes of one batch, as the functions here write and read them, and the ZMQPull op reads them (wire.h).

A message is one ZMQ frame, little-endian, without padding:

    int32 number of tensors, then for each tensor:
    int32 dtype code | int32 rank | int32 x rank dimensions | int64 payload length in bytes | payload, C order

This module needs NumPy only: the data server imports it and stays free of TensorFlow.
"""
import math
import struct

import numpy as np

# NumPy's name of a dtype -> its code on the wire, which is TensorFlow's DataType number. wire.h has the same table.
DTYPE_CODES = {
    'float32': 1, 'float64': 2, 'int32': 3, 'uint8': 4, 'int16': 5, 'int8': 6, 'complex64': 8, 'int64': 9, 'bool': 10,
    'uint16': 17, 'complex128': 18, 'float16': 19, 'uint32': 22, 'uint64': 23,
}

_DTYPE_NAMES = {code: name for name, code in DTYPE_CODES.items()}
MAX_RANK = 254  # of a TensorFlow tensor; NumPy's own limit, which is lower, holds too

INT32 = np.iinfo(np.int32)
FLOAT32 = np.finfo(np.float32)
INT64 = np.iinfo(np.int64)

_COUNT = struct.Struct('<i')


def dump_arrays(arrays):
    """One batch as the bytes of one message.

    The array data are copied once, into the result; an array that is not C-contiguous or not little-endian is copied
    once more. The caller's list and arrays stay as they are.

    Args:
        arrays (list or tuple): arrays of any shape and of the dtypes in `DTYPE_CODES`, or plain numbers. A Python or
            NumPy float becomes a float32 scalar, an int an int32 scalar, a bool a bool scalar.
    Returns:
        bytes: the message.
    Raises:
        TypeError: `arrays` is no list or tuple, or an element has a type or dtype that the format does not know.
        ValueError: a number does not fit into its 32 bits, or a dimension does not fit into an int32.
    """
    arrays = _arrays(arrays, 'dump_arrays')
    parts = [_COUNT.pack(len(arrays))]
    for index, array in enumerate(arrays):
        # Not ascontiguousarray(), which turns rank 0 into rank 1.
        array = np.asarray(array, dtype=_dtype(array.dtype, index), order='C')
        parts += [_header(array.dtype, array.shape, index), array]
    return b''.join(parts)


def message_size(arrays):
    """Length of a message in bytes.

    Args:
        arrays (list or tuple): what `dump_arrays` takes; a ``(dtype, shape)`` pair may stand for an array.
    Returns:
        int: ``len(dump_arrays(arrays))``.
    Raises:
        as `dump_arrays`.
    """
    size = _COUNT.size
    for index, element in enumerate(_sequence(arrays, 'message_size')):
        if isinstance(element, tuple):
            dtype, shape = element
        else:
            array = _array(element, index)
            dtype, shape = array.dtype, array.shape
        size += len(_header(dtype, shape, index)) + _nbytes(dtype, shape)
    return size


def write_message(arrays, buffer):
    """Writes one batch as a message to the start of a buffer; the array data are copied once, whatever their layout.

    Args:
        arrays (list or tuple): see `dump_arrays`.
        buffer: writable, contiguous memory of at least ``message_size(arrays)`` bytes, such as a bytearray, a shared
            memory's ``buf`` or a uint8 array. What follows the message stays as it is.
    Raises:
        as `dump_arrays`; ValueError: the buffer is too small or read-only.
    """
    arrays = _arrays(arrays, 'write_message')
    for view, array in zip(payload_views(buffer, [(array.dtype, array.shape) for array in arrays]), arrays):
        np.copyto(view, array)


def payload_views(buffer, specs):
    """Makes the start of a buffer a message whose tensors are filled in place.

    Writes everything but the tensors' values. The message takes ``message_size(specs)`` bytes.

    Args:
        buffer: see `write_message`.
        specs (list or tuple): a ``(dtype, shape)`` pair for each tensor, dtypes from `DTYPE_CODES`.
    Returns:
        list of np.ndarray: writable views of the tensors in the buffer, little-endian, C order, in general not aligned
        to their items' size; they keep the buffer alive.
    Raises:
        as `dump_arrays`; ValueError: the buffer is too small or read-only.
    """
    memory = np.frombuffer(buffer, np.uint8)
    size = message_size(specs)
    if memory.size < size or not memory.flags.writeable:
        raise ValueError('a message of {} bytes does not fit into {} bytes{}'.format(
            size, memory.size, '' if memory.flags.writeable else ' of read-only memory'))
    views, offset = [], 0

    def write(data):
        nonlocal offset
        memory[offset:offset + len(data)] = np.frombuffer(data, np.uint8)
        offset += len(data)
    write(_COUNT.pack(len(specs)))
    for index, (dtype, shape) in enumerate(specs):
        write(_header(dtype, shape, index))
        views.append(np.ndarray(shape, _dtype(dtype, index), memory, offset))
        offset += views[-1].nbytes
    return views


def load_arrays(message, dtypes):
    """Reads a message, which must hold one array for each of ``dtypes``, in their order. Nothing in it is trusted.

    Args:
        message: bytes, or any contiguous memory, as of a received frame.
        dtypes (list or tuple): from `DTYPE_CODES`.
    Returns:
        list of np.ndarray: read-only, little-endian, in general not aligned to their items' size; they lie in
        ``message`` and keep it alive.
    Raises:
        ValueError: the message holds anything else; the text says what and where, as the op's does.
        TypeError: a dtype is not in `DTYPE_CODES`.
    """
    names = [_dtype(dtype, index).name for index, dtype in enumerate(dtypes)]
    reader = _Reader(message)
    count = reader.number('<i', 'the number of tensors')
    if count != len(names):
        raise ValueError('the message holds {} tensors, {} are declared'.format(count, len(names)))
    arrays = []
    for index, name in enumerate(names):
        try:
            arrays.append(_read_array(reader, name))
        except ValueError as error:
            raise ValueError('component {}: {}'.format(index, error)) from None
    if reader.left:
        raise ValueError('{} bytes follow the last tensor'.format(reader.left))
    return arrays


def _read_array(reader, declared):
    code = reader.number('<i', 'the dtype')
    name = _DTYPE_NAMES.get(code)
    if name != declared:
        raise ValueError('unknown dtype code {}'.format(code) if name is None else
                         'dtype is {}, declared is {}'.format(name, declared))
    rank = reader.number('<i', 'the rank')
    if not 0 <= rank <= MAX_RANK:
        raise ValueError('rank {} is not within 0 and {}'.format(rank, MAX_RANK))
    shape = []
    for place in range(rank):
        shape.append(reader.number('<i', 'dimension {}'.format(place)))
        if shape[-1] < 0:
            raise ValueError('dimension {} is {}'.format(place, shape[-1]))
    text = '[{}]'.format(','.join(map(str, shape)))
    # Zeros left out: whether a shape is too large does not depend on the order of its dimensions.
    if _nbytes(name, [size for size in shape if size]) > INT64.max:
        raise ValueError('shape {} is too large'.format(text))
    nbytes = reader.number('<q', 'the payload length')
    if nbytes != _nbytes(name, shape):
        raise ValueError('the payload has {} bytes, shape {} of {} takes {}'.format(
            nbytes, text, name, _nbytes(name, shape)))
    payload = np.frombuffer(reader.take(nbytes, 'the payload'), np.uint8)
    if name == 'bool' and (payload > 1).any():
        place = int((payload > 1).argmax())
        raise ValueError('bool {} is stored as {}'.format(place, payload[place]))
    return payload.view(_dtype(name, 0)).reshape(shape)


class _Reader:
    """Takes a message apart from its beginning on."""

    def __init__(self, message):
        self._memory, self._offset = memoryview(message).cast('B').toreadonly(), 0

    @property
    def left(self):
        """Number of bytes not taken yet."""
        return len(self._memory) - self._offset

    def take(self, nbytes, what):
        """The next bytes, as a memoryview. Raises: ValueError: there are not as many; it names ``what``."""
        if nbytes > self.left:
            raise ValueError('the message of {} bytes ends within {}: {} bytes needed at offset {}, {} left'.format(
                len(self._memory), what, nbytes, self._offset, self.left))
        self._offset += nbytes
        return self._memory[self._offset - nbytes:self._offset]

    def number(self, form, what):
        """The next number, of `struct`'s format ``form``. Raises: see ``take``."""
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]


def _sequence(arrays, function):
    if not isinstance(arrays, (list, tuple)):
        raise TypeError('{} takes a list or tuple of arrays, got {}'.format(function, type(arrays).__name__))
    return arrays


def _arrays(arrays, function):
    return [_array(element, index) for index, element in enumerate(_sequence(arrays, function))]


def _array(element, index):
    return element if isinstance(element, np.ndarray) else _scalar(element, index)


def _dtype(dtype, index):
    """A tensor's dtype as it is stored."""
    dtype = np.dtype(dtype)
    if dtype.name not in DTYPE_CODES:
        raise TypeError('element {}: dtype {} cannot be sent, choose from {}'.format(index, dtype, sorted(DTYPE_CODES)))
    return dtype.newbyteorder('<')


def _header(dtype, shape, index):
    """What stands before the payload of tensor ``index``."""
    dtype = _dtype(dtype, index)
    if any(size > INT32.max for size in shape):
        raise ValueError('element {}: shape {} has a dimension above {}'.format(index, tuple(shape), INT32.max))
    return struct.pack('<ii{}iq'.format(len(shape)), DTYPE_CODES[dtype.name], len(shape), *shape,
                       _nbytes(dtype, shape))


def _nbytes(dtype, shape):
    return np.dtype(dtype).itemsize * math.prod(map(int, shape))


def _scalar(number, index):
    # bool comes first because a Python bool is an int as well.
    if isinstance(number, (bool, np.bool_)):
        return np.array(number, np.bool_)
    if isinstance(number, (int, np.integer)):
        if not INT32.min <= number <= INT32.max:
            raise ValueError('element {}: {} does not fit into an int32; send an int64 array'.format(index, number))
        return np.array(number, '<i4')
    if isinstance(number, (float, np.floating)):
        if np.isfinite(number) and abs(number) > float(FLOAT32.max):
            raise ValueError('element {}: {} does not fit into a float32; send a float64 array'.format(index, number))
        return np.array(number, '<f4')
    dtype = ' of dtype {}'.format(number.dtype) if isinstance(number, np.generic) else ''
    raise TypeError('element {}: {}{} cannot be sent, only arrays and plain numbers'.format(
        index, type(number).__name__, dtype))
