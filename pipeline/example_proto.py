"""Any tf.train.Example, read without TensorFlow: its features by name, and where their bytes lie.

The messages of tensorflow/core/example/{example,feature}.proto, by their field numbers:

    Example   1: Features
    Features  1: entry, repeated              entry  1: name, 2: Feature
    Feature   one of 1: BytesList, 2: FloatList, 3: Int64List; each of them  1: value, repeated
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

BYTES, FLOAT, INT64 = "bytes", "float", "int64"

_KINDS = {1: BYTES, 2: FLOAT, 3: INT64}
_ONLY_FIELD = _NAME = 1  # of Example, Features and the lists; of an entry
_FEATURE = 2  # of an entry

_VARINT, _FIXED_64, _LENGTH_DELIMITED, _FIXED_32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 70


class ExampleError(ValueError):
    """Bytes that are no tf.train.Example."""


class Feature(NamedTuple):
    """One feature of an example; its values are read when they are asked for."""

    record: bytes
    kind: str  # BYTES, FLOAT or INT64; "" where it is said to be nothing
    lists: tuple[tuple[int, int], ...]  # start and end of each list in the record

    @property
    def num_bytes(self) -> int:
        """What the values take in the record."""
        return sum(end - start for start, end in self.lists)

    def spans(self) -> list[tuple[int, int]]:
        """Start and end of every value in the record, of a feature of bytes."""
        return self._payloads(_LENGTH_DELIMITED)

    def texts(self) -> list[bytes]:
        return [self.record[start:end] for start, end in self.spans()]

    def int64s(self) -> list[int]:
        values = []
        for position, end in self._payloads(_VARINT, _LENGTH_DELIMITED):
            while position < end:
                value, position = _varint(self.record, position, end)
                values.append(value - (1 << 64) if value >> 63 else value)
        return values

    def floats(self) -> list[float]:
        values: list[float] = []
        for start, end in self._payloads(_FIXED_32, _LENGTH_DELIMITED):
            if (end - start) % 4:
                raise ExampleError(f"{end - start} bytes of floats")
            values += struct.unpack_from(f"<{(end - start) // 4}f", self.record, start)
        return values

    def _payloads(self, *wire_types: int) -> list[tuple[int, int]]:
        payloads = []
        for list_start, list_end in self.lists:
            for number, wire_type, start, end in _fields(self.record, list_start, list_end):
                if number == _ONLY_FIELD:
                    if wire_type not in wire_types:
                        raise ExampleError(f"a value of wire type {wire_type} among {self.kind}")
                    payloads.append((start, end))
        return payloads


def features(record: bytes) -> dict[str, Feature]:
    """The features of the example by name; raises ExampleError. As ever, the last of a name counts.

    Values are not checked before they are read.
    """
    found = {}
    for start, end in _messages(record, 0, len(record), _ONLY_FIELD):
        for entry_start, entry_end in _messages(record, start, end, _ONLY_FIELD):
            name, feature = b"", Feature(record, "", ())
            for number, wire_type, first, last in _fields(record, entry_start, entry_end):
                if wire_type == _LENGTH_DELIMITED and number == _NAME:
                    name = record[first:last]
                elif wire_type == _LENGTH_DELIMITED and number == _FEATURE:
                    feature = _feature(record, first, last)
            try:
                found[name.decode()] = feature
            except UnicodeDecodeError as error:
                raise ExampleError(f"the name of a feature is not UTF-8: {name[:40]!r}") from error
    return found


def _feature(record: bytes, start: int, end: int) -> Feature:
    kind = ""
    lists: list[tuple[int, int]] = []
    for number, wire_type, first, last in _fields(record, start, end):
        if number in _KINDS and wire_type == _LENGTH_DELIMITED:
            if _KINDS[number] != kind:  # of a oneof the last that is set counts
                kind, lists = _KINDS[number], []
            lists.append((first, last))
    return Feature(record, kind, tuple(lists))


def _messages(data: bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    for number, wire_type, first, last in _fields(data, start, end):
        if number == wanted and wire_type == _LENGTH_DELIMITED:
            yield first, last


def _fields(data: bytes, position: int, end: int) -> list[tuple[int, int, int, int]]:
    """(field number, wire type, start, end of the payload) of every field of a message.

    Numbers below 128 are read in place: nearly all are, and this is where the time goes.
    """
    fields = []
    while position < end:
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = _varint(data, position - 1, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _LENGTH_DELIMITED:
            if position < end and data[position] <= 0x7F:
                after = position + 1 + data[position]
                position += 1
            else:
                length, position = _varint(data, position, end)
                after = position + length
        elif wire_type == _VARINT:
            _, after = _varint(data, position, end)
        elif wire_type == _FIXED_32:
            after = position + 4
        elif wire_type == _FIXED_64:
            after = position + 8
        else:
            raise ExampleError(f"wire type {wire_type} at byte {position}")
        if not number:
            raise ExampleError(f"field number 0 at byte {position}")
        if after > end:
            raise ExampleError(f"a field at byte {position} ends after its message")
        fields.append((number, wire_type, position, after))
        position = after
    return fields


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """(uint64, where the next field begins)."""
    start, value, shift = position, 0, 0
    while position < end and shift < _MAX_VARINT_BITS:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
    raise ExampleError(f"a number without an end at byte {start}")
