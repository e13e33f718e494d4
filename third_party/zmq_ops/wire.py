"""The bytes of one batch, as `dump_arrays` writes and the ZMQPull op reads them (wire.h holds the reader).

A message is one ZMQ frame, little-endian, without padding:

    int32 number of tensors, then for each tensor:
    int32 dtype code | int32 rank | int32 x rank dimensions | int64 payload length in bytes | payload, C order

This module needs NumPy only: the data server imports it and stays free of TensorFlow.
"""
import struct

import numpy as np

# NumPy's name of a dtype -> its code on the wire, which is TensorFlow's DataType number. wire.h has the same table.
DTYPE_CODES = {
    'float32': 1, 'float64': 2, 'int32': 3, 'uint8': 4, 'int16': 5, 'int8': 6, 'complex64': 8, 'int64': 9, 'bool': 10,
    'uint16': 17, 'complex128': 18, 'float16': 19, 'uint32': 22, 'uint64': 23,
}

INT32 = np.iinfo(np.int32)
FLOAT32 = np.finfo(np.float32)


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
    if not isinstance(arrays, (list, tuple)):
        raise TypeError('dump_arrays takes a list or tuple of arrays, got {}'.format(type(arrays).__name__))
    parts = [struct.pack('<i', len(arrays))]
    for index, element in enumerate(arrays):
        array = _wire_array(element, index)
        parts.append(struct.pack('<ii{}iq'.format(array.ndim), DTYPE_CODES[array.dtype.name], array.ndim,
                                 *array.shape, array.nbytes))
        parts.append(array)
    return b''.join(parts)


def _wire_array(element, index):
    """Element `index` of a batch as a C-contiguous little-endian array that the format can hold."""
    if not isinstance(element, np.ndarray):
        return _scalar(element, index)
    if element.dtype.name not in DTYPE_CODES:
        raise TypeError('element {}: dtype {} cannot be sent, choose from {}'.format(
            index, element.dtype, sorted(DTYPE_CODES)))
    if any(size > INT32.max for size in element.shape):
        raise ValueError('element {}: shape {} has a dimension above {}'.format(index, element.shape, INT32.max))
    # Not ascontiguousarray(), which turns rank 0 into rank 1.
    return np.asarray(element, dtype=element.dtype.newbyteorder('<'), order='C')


def _scalar(number, index):
    # bool comes first because a Python bool is an int as well.
    if isinstance(number, (bool, np.bool_)):
        return np.array(number, np.bool_)
    if isinstance(number, (int, np.integer)):
        if not INT32.min <= number <= INT32.max:
            raise ValueError('element {}: {} does not fit into an int32; send an int64 array'.format(index, number))
        return np.array(number, '<i4')
    if isinstance(number, (float, np.floating)):
        if np.isfinite(number) and abs(number) > FLOAT32.max:
            raise ValueError('element {}: {} does not fit into a float32; send a float64 array'.format(index, number))
        return np.array(number, '<f4')
    dtype = ' of dtype {}'.format(number.dtype) if isinstance(number, np.generic) else ''
    raise TypeError('element {}: {}{} cannot be sent, only arrays and plain numbers'.format(
        index, type(number).__name__, dtype))
