"""The TFRecord container: length, its masked CRC-32C, the record, its masked CRC-32C."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CRC.size
MAX_RECORD_BYTES = 1 << 31  # what a tf.train.Example can hold; more is a damaged length


class TFRecordError(ValueError):
    """A damaged file."""


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _CRC.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(record: bytes) -> bytes:
    """The bytes that stand in the file for `record`."""
    length = _LENGTH.pack(len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def read(stream: BinaryIO) -> Iterator[bytes]:
    """The records of a file; raises TFRecordError at the first damage."""
    while header := stream.read(_HEADER_BYTES):
        if len(header) < _HEADER_BYTES:
            raise TFRecordError("the file ends inside a record's length")
        if _masked_crc(header[: _LENGTH.size]) != header[_LENGTH.size :]:
            raise TFRecordError("the checksum of a record's length is wrong")
        (length,) = _LENGTH.unpack_from(header)
        if length > MAX_RECORD_BYTES:
            raise TFRecordError(f"a record of {length} bytes")
        record = stream.read(length)
        checksum = stream.read(_CRC.size)
        if len(record) < length or len(checksum) < _CRC.size:
            raise TFRecordError("the file ends inside a record")
        if _masked_crc(record) != checksum:
            raise TFRecordError("the checksum of a record is wrong")
        yield record
