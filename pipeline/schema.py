"""The record contract: what one tf.train.Example of a shard holds, and its bytes.

A record has seven features, always all of them, in the order of their names:

    confidences       float32  of each label: how sure its source is, from 0 to 1
    image             bytes    one image file: a JPEG, RGB, unless images are kept untouched
    image_id          bytes    UTF-8
    label_sources     bytes    of each label: who says so, UTF-8; empty where unknown
    labels            int64    class ids of the positives, sorted and unique; may be empty
    negative_sources  bytes    of each negative: who says so
    negatives         int64    class ids of the verified negatives, sorted and unique; may be empty

A class in neither list is unknown. The protocol buffer's wire format is written by hand: a Beam
worker then needs no TensorFlow, and the same example always gives the same bytes, which a protobuf
map does not promise.
"""

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from pipeline import example_proto

FORMAT_VERSION = 2

CONFIDENCES = "confidences"
IMAGE = "image"
IMAGE_ID = "image_id"
LABEL_SOURCES = "label_sources"
LABELS = "labels"
NEGATIVE_SOURCES = "negative_sources"
NEGATIVES = "negatives"

_KINDS = {
    CONFIDENCES: example_proto.FLOAT,
    IMAGE: example_proto.BYTES,
    IMAGE_ID: example_proto.BYTES,
    LABEL_SOURCES: example_proto.BYTES,
    LABELS: example_proto.INT64,
    NEGATIVE_SOURCES: example_proto.BYTES,
    NEGATIVES: example_proto.INT64,
}

# Field numbers of tensorflow/core/example/{example,feature}.proto.
_EXAMPLE_FEATURES = _FEATURES_ENTRY = _ENTRY_KEY = _LIST_VALUE = 1
_ENTRY_VALUE = 2
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3

_LENGTH_DELIMITED = 2  # the wire type


class SchemaError(ValueError):
    """A record that is not an example of this schema."""


class Example(NamedTuple):
    """One record of a shard."""

    image_id: str
    image: bytes
    labels: tuple[int, ...]  # class ids of the positives: ascending, each once
    confidences: tuple[float, ...]  # one a label, from 0 to 1; stored as float32
    label_sources: tuple[str, ...]  # one a label
    negatives: tuple[int, ...] = ()  # class ids of the verified negatives: ascending, each once
    negative_sources: tuple[str, ...] = ()  # one a negative


def encode(example: Example) -> bytes:
    """The serialized tf.train.Example; raises SchemaError where a value breaks the contract."""
    _check(example)
    entries = (
        _entry(CONFIDENCES, _FLOAT_LIST, _packed(_floats(example.confidences))),
        _entry(IMAGE, _BYTES_LIST, _field(_LIST_VALUE, example.image)),
        _entry(IMAGE_ID, _BYTES_LIST, _texts([example.image_id])),
        _entry(LABEL_SOURCES, _BYTES_LIST, _texts(example.label_sources)),
        _entry(LABELS, _INT64_LIST, _packed(_varints(example.labels))),
        _entry(NEGATIVE_SOURCES, _BYTES_LIST, _texts(example.negative_sources)),
        _entry(NEGATIVES, _INT64_LIST, _packed(_varints(example.negatives))),
    )
    return _field(_EXAMPLE_FEATURES, b"".join(entries))


def decode(record: bytes) -> Example:
    """The example in `record`; raises SchemaError where it is not one of this schema."""
    try:
        features = example_proto.features(record)
        if features.keys() != _KINDS.keys():
            raise SchemaError(
                f"a record holds the features {', '.join(_KINDS)}. "
                f"Received: {', '.join(sorted(features)) or 'none'}"
            )
        for name, feature in features.items():
            if feature.kind not in (_KINDS[name], ""):  # a writer may leave an empty list out
                raise SchemaError(f"{name} is a list of {_KINDS[name]}. Received: {feature.kind}")
        example = Example(
            image_id=_single(features, IMAGE_ID).decode(),
            image=_single(features, IMAGE),
            labels=tuple(features[LABELS].int64s()),
            confidences=tuple(features[CONFIDENCES].floats()),
            label_sources=tuple(map(bytes.decode, features[LABEL_SOURCES].texts())),
            negatives=tuple(features[NEGATIVES].int64s()),
            negative_sources=tuple(map(bytes.decode, features[NEGATIVE_SOURCES].texts())),
        )
    except example_proto.ExampleError as error:
        raise SchemaError(f"not a serialized tf.train.Example: {error}") from error
    except UnicodeDecodeError as error:
        raise SchemaError(f"a text of the record is not UTF-8: {error}") from error
    _check(example)
    return example


def _check(example: Example) -> None:
    fault = next(_faults(example), None)
    if fault:
        raise SchemaError(f"{fault} (image {example.image_id!r})")


def _faults(example: Example) -> Iterator[str]:
    labels, negatives = example.labels, example.negatives
    for name, ids in ((LABELS, labels), (NEGATIVES, negatives)):
        if ids and (ids[0] < 0 or ids[-1] >> 63 or any(a >= b for a, b in pairwise(ids))):
            yield f"{name} are class ids from 0, ascending, each once. Received: {ids}"
    if not len(labels) == len(example.confidences) == len(example.label_sources):
        yield (
            f"each of the {LABELS} has a confidence and a source. Received: {len(labels)} labels, "
            f"{len(example.confidences)} confidences, {len(example.label_sources)} sources"
        )
    if len(negatives) != len(example.negative_sources):
        yield (
            f"each of the {NEGATIVES} has a source. Received: {len(negatives)} negatives, "
            f"{len(example.negative_sources)} sources"
        )
    if not all(0 <= confidence <= 1 for confidence in example.confidences):
        yield f"{CONFIDENCES} lie between 0 and 1. Received: {example.confidences}"
    if not set(labels).isdisjoint(negatives):
        both = sorted(set(labels).intersection(negatives))
        yield f"a class is in {LABELS} or in {NEGATIVES}, not in both. Received: {both} in both"


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _field(number: int, payload: bytes) -> bytes:
    """One length-delimited field."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(payload)) + payload


def _entry(name: str, kind: int, values: bytes) -> bytes:
    feature = _field(_ENTRY_VALUE, _field(kind, values))
    return _field(_FEATURES_ENTRY, _field(_ENTRY_KEY, name.encode()) + feature)


def _packed(values: bytes) -> bytes:
    return _field(_LIST_VALUE, values) if values else b""


def _varints(values: Iterable[int]) -> bytes:
    return b"".join(map(_varint, values))


def _floats(values: tuple[float, ...]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _texts(values: Iterable[str]) -> bytes:
    return b"".join(_field(_LIST_VALUE, value.encode()) for value in values)


def _single(features: dict[str, example_proto.Feature], name: str) -> bytes:
    values = features[name].texts()
    if len(values) != 1:
        raise SchemaError(f"{name} holds one value. Received: {len(values)} values")
    return values[0]
