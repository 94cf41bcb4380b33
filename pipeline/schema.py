"""The record contract: what one tf.train.Example of a shard holds, and its bytes.

A record has three features, always in this order:

    image     bytes  one JPEG, RGB
    image_id  bytes  UTF-8
    labels    int64  class ids of the positives, sorted and unique; may be empty

The protocol buffer's wire format is written by hand: a Beam worker then needs no TensorFlow, and
the same example always gives the same bytes, which a protobuf map does not promise.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

FORMAT_VERSION = 1

IMAGE = "image"
IMAGE_ID = "image_id"
LABELS = "labels"

# Field numbers of tensorflow/core/example/{example,feature}.proto.
_EXAMPLE_FEATURES = _FEATURES_ENTRY = _ENTRY_KEY = _LIST_VALUE = 1
_ENTRY_VALUE = 2
_FEATURE_BYTES_LIST = 1
_FEATURE_INT64_LIST = 3

_VARINT = 0
_LENGTH_DELIMITED = 2


class SchemaError(ValueError):
    """A record that is not an example of this schema."""


class Example(NamedTuple):
    """One record of a shard."""

    image_id: str
    image: bytes
    labels: tuple[int, ...]


def encode(image_id: str, image: bytes, labels: Iterable[int]) -> bytes:
    """The serialized tf.train.Example; `labels` are class ids in any order, duplicates allowed."""
    class_ids = sorted(set(labels))
    if class_ids and class_ids[0] < 0:
        raise SchemaError(f"class ids must not be negative. Received: {class_ids[0]} ({image_id})")
    packed_ids = b"".join(_varint(class_id) for class_id in class_ids)
    int64_list = _field(_LIST_VALUE, packed_ids) if class_ids else b""
    entries = (
        (IMAGE, _field(_FEATURE_BYTES_LIST, _field(_LIST_VALUE, image))),
        (IMAGE_ID, _field(_FEATURE_BYTES_LIST, _field(_LIST_VALUE, image_id.encode()))),
        (LABELS, _field(_FEATURE_INT64_LIST, int64_list)),
    )
    features = b"".join(
        _field(_FEATURES_ENTRY, _field(_ENTRY_KEY, key.encode()) + _field(_ENTRY_VALUE, feature))
        for key, feature in entries
    )
    return _field(_EXAMPLE_FEATURES, features)


def decode(record: bytes) -> Example:
    """The example in `record`; raises SchemaError where it is not one of this schema."""
    try:
        features = dict(_entries(record))
    except (IndexError, UnicodeDecodeError) as error:
        raise SchemaError(f"not a serialized tf.train.Example: {error}") from error
    if sorted(features) != [IMAGE, IMAGE_ID, LABELS]:
        raise SchemaError(
            f"a record holds the features {IMAGE}, {IMAGE_ID} and {LABELS}. "
            f"Received: {sorted(features)}"
        )
    try:
        return Example(
            image_id=_single_bytes(features[IMAGE_ID]).decode(),
            image=_single_bytes(features[IMAGE]),
            labels=tuple(_int64s(features[LABELS])),
        )
    except (IndexError, UnicodeDecodeError) as error:
        raise SchemaError(f"a feature of the record cannot be read: {error}") from error


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, payload: bytes) -> bytes:
    """One length-delimited field."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(field number, payload) of a message: bytes where length-delimited, int where a varint."""
    position = 0
    while position < len(data):
        tag, position = _read_varint(data, position)
        value, position = _read_varint(data, position)
        if tag & 7 == _VARINT:
            yield tag >> 3, value
        elif tag & 7 == _LENGTH_DELIMITED:
            if position + value > len(data):
                raise IndexError("a field ends after the end of its message")
            yield tag >> 3, data[position : position + value]
            position += value
        else:
            raise SchemaError(f"wire type {tag & 7} does not occur in an example of this schema")


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    for field, payload in _fields(data):
        if field == number and isinstance(payload, bytes):
            yield payload


def _entries(record: bytes) -> Iterator[tuple[str, bytes]]:
    for features in _messages(record, _EXAMPLE_FEATURES):
        for entry in _messages(features, _FEATURES_ENTRY):
            key = b"".join(_messages(entry, _ENTRY_KEY)).decode()
            yield key, b"".join(_messages(entry, _ENTRY_VALUE))


def _single_bytes(feature: bytes) -> bytes:
    values = [
        value
        for bytes_list in _messages(feature, _FEATURE_BYTES_LIST)
        for value in _messages(bytes_list, _LIST_VALUE)
    ]
    if len(values) != 1:
        raise SchemaError(f"{IMAGE} and {IMAGE_ID} hold one value. Received: {len(values)} values")
    return values[0]


def _int64s(feature: bytes) -> Iterator[int]:
    for int64_list in _messages(feature, _FEATURE_INT64_LIST):
        for number, payload in _fields(int64_list):
            if number != _LIST_VALUE:
                continue
            if isinstance(payload, int):  # not packed, as another writer may store it
                yield payload
                continue
            position = 0
            while position < len(payload):
                value, position = _read_varint(payload, position)
                yield value
