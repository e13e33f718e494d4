"""TFRecord's framing: where in a shard the records are, without their data being read.

It is TensorFlow's (tensorflow/core/lib/io/record_writer.h): uint64 length, uint32 masked CRC-32C of the length, the
data, uint32 masked CRC-32C of the data, all little-endian.
"""
import array
import os
import struct
from typing import Sized, Tuple

import google_crc32c
import numpy as np

HEADER, CRC = struct.Struct('<QI'), struct.Struct('<I')
LENGTH_BYTES = 8  # the part of the header that its checksum is of


def index_shard(path: str) -> Tuple[np.ndarray, np.ndarray]:
    """Walk the record headers of a shard.

    Returns:
        offsets of the records' data in the file, their lengths: two int64 [records], in bytes.
    Raises:
        ValueError: the file cannot be read, ends within a record, or a header's checksum is wrong.
    """
    offsets, lengths = array.array('q'), array.array('q')
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Without read-ahead: only the headers are wanted, a few bytes of every 100 KB.
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            size, place = os.fstat(file).st_size, 0
            while place < size:
                header = os.pread(file, HEADER.size, place)
                if len(header) < HEADER.size:
                    raise _damage(path, offsets, place, 'the file ends there, within a header')
                length, crc = HEADER.unpack(header)
                if masked_crc(header[:LENGTH_BYTES]) != crc:
                    raise _damage(path, offsets, place, 'the checksum of the header is wrong')
                begin, place = place, place + HEADER.size + length + CRC.size
                if place > size:
                    raise _damage(path, offsets, begin, 'the record needs {} bytes, the file ends after {}'.format(
                        place - begin, size - begin))
                offsets.append(begin + HEADER.size)
                lengths.append(length)
        finally:
            os.close(file)
    except OSError as error:
        raise ValueError("cannot read {}: {}".format(path, error.strerror)) from error
    return np.array(offsets, np.int64), np.array(lengths, np.int64)


def _damage(path: str, records: Sized, place: int, what: str) -> ValueError:
    return ValueError("{}: damaged after {} whole records, at byte {}: {}; get this file again, or remove it if it is "
                      "no TFRecord shard".format(path, len(records), place, what))


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff
