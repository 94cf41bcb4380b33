"""The TFRecord container: length, its masked CRC-32C, the record, its masked CRC-32C."""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import google_crc32c

from pipeline.loss import Loss

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CRC.size
FRAME_BYTES = _HEADER_BYTES + _CRC.size  # what a record takes in a file besides its own bytes
MAX_RECORD_BYTES = 1 << 31  # what a tf.train.Example can hold; more is a damaged length


class TFRecordError(ValueError):
    """A damaged file."""


class Record(NamedTuple):
    """A record that is whole."""

    data: bytes
    offset: int  # of its first byte in the file


class Damage(NamedTuple):
    """A record that is damaged; or where no length can be trusted, all that is left of the file."""

    detail: str
    offset: int  # in the file
    loss: Loss | None = None  # None: of this record alone


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return _CRC.pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frame(record: bytes) -> bytes:
    """The bytes that stand in the file for `record`."""
    length = _LENGTH.pack(len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def read(stream: BinaryIO) -> Iterator[bytes]:
    """The records of a file; raises TFRecordError at the first damage."""
    for found in scan(stream):
        if isinstance(found, Damage):
            raise TFRecordError(found.detail)
        yield found.data


def scan(stream: BinaryIO) -> Iterator[Record | Damage]:
    """Everything in a file: its records, and in their places what is damaged."""
    offset = 0
    while header := stream.read(_HEADER_BYTES):
        fault = _fault_of_header(header)
        if fault:
            yield _rest(stream, fault, offset, is_cut=len(header) < _HEADER_BYTES)
            return
        (length,) = _LENGTH.unpack_from(header)
        data = stream.read(length)
        checksum = stream.read(_CRC.size)
        if len(checksum) < _CRC.size:
            yield _rest(stream, "the file ends inside a record", offset, is_cut=True)
            return
        data_offset = offset + _HEADER_BYTES
        if _masked_crc(data) == checksum:
            yield Record(data, data_offset)
        else:
            yield Damage("the checksum of a record is wrong", data_offset)
        offset = data_offset + length + _CRC.size


def _fault_of_header(header: bytes) -> str:
    if len(header) < _HEADER_BYTES:
        return "the file ends inside a record's length"
    if _masked_crc(header[: _LENGTH.size]) != header[_LENGTH.size :]:
        return "the checksum of a record's length is wrong"
    (length,) = _LENGTH.unpack_from(header)
    return f"a record of {length} bytes" if length > MAX_RECORD_BYTES else ""


def _rest(stream: BinaryIO, fault: str, offset: int, is_cut: bool) -> Damage:
    end = stream.seek(0, io.SEEK_END)
    detail = f"{fault}: {end - offset} bytes from byte {offset} on are lost"
    return Damage(detail, offset, Loss(end, None if is_cut else end - offset))
