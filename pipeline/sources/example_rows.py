"""The rows that tf.train.Examples give, by what their features mean.

The images stay where they are: a row refers to the bytes inside the TFRecord.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from pipeline import example_proto, fetch, tfrecord
from pipeline.example_proto import ExampleError, Feature
from pipeline.loss import Usual
from pipeline.records import CONTROL_CHARACTERS, Annotation, BadRow, ImageRow
from pipeline.sources import cells

_MACHINE = "machine"  # its confidence 0 says nothing: people alone verify negatives
_MAX_VALUES_BYTES = 1 << 20  # of the labels of one image
_NOTHING = Feature(b"", "", ())
_Value = TypeVar("_Value")


class LabelFeatures(NamedTuple):
    """Features that belong together: labels, and what is said of each of them."""

    labels: str
    confidences: str | None = None
    sources: str | None = None
    class_names: tuple[str, ...] | None = None  # of labels that are numbers; None: as they are
    source_names: tuple[str, ...] | None = None  # of sources that are numbers
    are_negatives: bool = False  # all of them verified
    full_confidence: int = 1  # what confidences that are integers count to


class Features(NamedTuple):
    """What is read of an example, by the names that the records have."""

    image: str
    image_id: str | None  # None: the file's name and the number of the record
    labels: tuple[LabelFeatures, ...]
    label_delimiter: str
    split: str | None = None


class _RecordError(ValueError):
    """A record that gives no row."""


class Reader(NamedTuple):
    """Makes the rows of one file."""

    features: Features
    path: str  # that rows refer to
    file: int
    name: str
    split: str
    num_records: int | None  # that the file should have; None: not known
    usual: Usual

    def rows(self, stream: BinaryIO, damage: str) -> Iterator[ImageRow | BadRow]:
        """Every record's, and a bad row for each that is lost.

        `damage` is what is known to be wrong behind the last one.
        """
        number = 0
        rest = None
        for found in tfrecord.scan(stream):
            if isinstance(found, tfrecord.Damage) and found.loss is not None:
                rest = found
                break
            number += 1
            yield self._row(found, number)
        yield from self._lost_rows(number, rest, damage)

    def _lost_rows(
        self, number: int, rest: tfrecord.Damage | None, damage: str
    ) -> Iterator[BadRow]:
        """Of what should come behind so many records."""
        details = [damage] if damage else []
        count = len(details)
        if rest is not None and rest.loss is not None:
            details.insert(0, rest.detail)
            count = rest.loss.num_rows(self.usual)
        if self.num_records is not None:
            missing = self.num_records - number
            count = max(missing, min(count, 1))
            details.append(f"it has {number:,} of {self.num_records:,} records")
        elif rest is not None:
            details.append(f"lost behind record {number:,}, about: {count:,}")
        numbers = range(number + 1, number + 1 + count)
        yield from cells.lost_rows(self.name, "; ".join(details), self.file, numbers)

    def _row(self, found: tfrecord.Record | tfrecord.Damage, number: int) -> ImageRow | BadRow:
        if isinstance(found, tfrecord.Damage):
            return self._bad_row(found.detail, number)
        try:
            return self._image_row(found, number)
        except (ExampleError, _RecordError) as error:
            return self._bad_row(str(error), number)

    def _bad_row(self, detail: str, number: int) -> BadRow:
        return BadRow(f"{self.name}:{number}", detail, f"{self.file}:{number}")

    def _image_row(self, record: tfrecord.Record, number: int) -> ImageRow:
        wanted = self.features
        found = example_proto.features(record.data)
        start, end = _image_span(found, wanted.image)
        image_id = f"{self.name}:{number}"
        if wanted.image_id is not None:
            image_id = _single_text(found, wanted.image_id, "image id")
        annotations = [
            annotation
            for group in wanted.labels
            for annotation in _annotations(found, group, wanted.label_delimiter)
        ]
        row = ImageRow(
            image_id,
            fetch.reference(self.path, record.offset + start, end - start),
            tuple(annotations),
            f"{self.file}:{number}",
            split=_single_text(found, wanted.split, "split") if wanted.split else self.split,
        )
        _check((row.image_id, row.uri, row.split))
        return row


def _image_span(found: dict[str, Feature], name: str) -> tuple[int, int]:
    if name not in found:
        raise _RecordError(
            f"no feature {name!r}, but {', '.join(map(repr, sorted(found))) or 'none'}"
        )
    feature = found[name]
    if feature.kind not in (example_proto.BYTES, ""):
        raise _RecordError(f"the image {name!r} is no bytes but {feature.kind}")
    spans = feature.spans()
    if len(spans) != 1:
        raise _RecordError(f"{len(spans)} images in {name!r}")
    return spans[0]


def _annotations(
    found: dict[str, Feature], wanted: LabelFeatures, delimiter: str
) -> Iterator[Annotation]:
    labels = _labels(found.get(wanted.labels, _NOTHING), wanted, delimiter)
    confidences = [0.0 if wanted.are_negatives else 1.0]
    if wanted.confidences is not None and labels:
        confidences = _confidences(
            found.get(wanted.confidences, _NOTHING), wanted.confidences, wanted.full_confidence
        )
    sources = [""]
    if wanted.sources is not None and wanted.sources in found:
        given = _texts(found[wanted.sources], wanted.sources, wanted.source_names)
        sources = [source or "" for source in given] or sources
        _check(sources)
    for label, confidence, source in zip(
        labels,
        _aligned(confidences, wanted.confidences, labels),
        _aligned(sources, wanted.sources, labels),
        strict=True,
    ):
        if label is not None and (confidence or source != _MACHINE):
            yield Annotation(label, confidence, source)


def _labels(feature: Feature, wanted: LabelFeatures, delimiter: str) -> list[str | None]:
    """The labels; None for a class of -1, as which TFDS writes that there is none."""
    labels = _texts(feature, wanted.labels, wanted.class_names)
    if feature.kind == example_proto.BYTES:
        texts = [label or "" for label in labels]
        if len(texts) == 1:
            texts = [label for label in texts[0].split(delimiter) if label.strip()]
        labels = [label.strip() for label in texts]
        if "" in labels:
            raise _RecordError(f"an empty label in {wanted.labels!r}")
    _check([label or "" for label in labels])
    return labels


def _confidences(feature: Feature, name: str, full: int) -> list[float]:
    _check_size(feature, name)
    if feature.kind == example_proto.FLOAT:
        values = [_shortest(value) for value in feature.floats()]
    elif feature.kind == example_proto.INT64:
        values = [value / full for value in feature.int64s()]
    elif feature.kind:
        raise _RecordError(f"the confidences {name!r} are {feature.kind}")
    else:
        values = []
    for value in values:
        if not 0 <= value <= 1:  # true of NaN, too
            raise _RecordError(f"a confidence is from 0 to {full}: {name!r} has {value * full:g}")
    return values


@functools.lru_cache(maxsize=4096)
def _shortest(value: float) -> float:
    """0.7 for the float32 that is nearest to it, so that 0.7 is not less than 0.7."""
    return float(str(np.float32(value)))


def _aligned(values: list[_Value], name: str | None, labels: list[str | None]) -> list[_Value]:
    """A value for each label; a single one counts for them all."""
    if len(values) == 1:
        return values * len(labels)
    if len(values) != len(labels):
        raise _RecordError(f"{len(values)} values in {name!r} for {len(labels)} labels")
    return values


def _texts(feature: Feature, name: str, names: tuple[str, ...] | None) -> list[str | None]:
    _check_size(feature, name)
    if feature.kind == example_proto.INT64:
        numbers = feature.int64s()
        return (
            [str(number) for number in numbers] if names is None else _named(numbers, name, names)
        )
    if feature.kind not in (example_proto.BYTES, ""):
        raise _RecordError(f"{name!r} holds {feature.kind}s, not text or integers")
    try:
        return [
            text for start, end in feature.lists for text in _decoded(feature.record[start:end])
        ]
    except UnicodeDecodeError as error:
        raise _RecordError(f"{name!r} is not UTF-8: {error}") from error


@functools.lru_cache(maxsize=1024)
def _decoded(texts: bytes) -> tuple[str, ...]:
    """The values of a list, which record after record often repeats: who says so, a class."""
    values = Feature(texts, example_proto.BYTES, ((0, len(texts)),)).texts()
    return tuple(value.decode() for value in values)


def _named(numbers: Sequence[int], name: str, names: tuple[str, ...]) -> list[str | None]:
    wrong = [number for number in numbers if not -1 <= number < len(names)]
    if wrong:
        raise _RecordError(f"{name!r} has {wrong[0]}, but there are {len(names)} names")
    return [None if number == -1 else names[number] for number in numbers]


def _single_text(found: dict[str, Feature], name: str, what: str) -> str:
    texts = _texts(found.get(name, _NOTHING), name, None)
    if len(texts) > 1:
        raise _RecordError(f"{len(texts)} values in {name!r}, where there is one {what}")
    text = (texts[0] or "").strip() if texts else ""
    if not text:
        raise _RecordError(f"no {what} in {name!r}")
    return text


def _check_size(feature: Feature, name: str) -> None:
    if len(feature.record) > _MAX_VALUES_BYTES < feature.num_bytes:
        raise _RecordError(f"{name!r} takes {feature.num_bytes} bytes")


def _check(texts: Sequence[str]) -> None:
    if CONTROL_CHARACTERS.search("".join(texts)):
        raise _RecordError(f"a control character in {', '.join(map(repr, texts))}")
