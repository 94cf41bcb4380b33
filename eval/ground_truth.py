"""What is known of the images: from the shards of a dataset, or from label files alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from pipeline import rows, schema, sources, tfrecord
from pipeline.annotations import LabelRules
from pipeline.labels import Vocabulary
from pipeline.records import Annotation, BadRow
from pipeline.sources.source import SourceError, SourceOptions


class GroundTruthError(ValueError):
    """Shards or label files that cannot be read; says which and where."""


class LabelledImage(NamedTuple):
    """One image of an evaluation set."""

    image_id: str
    labels: np.ndarray  # int64 class ids of the positives
    negatives: np.ndarray  # int64 class ids of the verified negatives
    image: bytes | None  # the JPEG, where there is one


class Manifest(NamedTuple):
    """Images and labels of label files."""

    images: list[LabelledImage]  # in order of their first rows
    digest: str  # of the files' contents
    num_unknown_labels: int  # positive labels outside the class list, which are left out


def read_shards(paths: tuple[str, ...], num_classes: int) -> Iterator[LabelledImage]:
    """The images of shards, in their order; needs no TensorFlow. Raises GroundTruthError."""
    for path in paths:
        try:
            with epath.Path(path).open("rb") as stream:
                for record in tfrecord.read(stream):
                    example = schema.decode(record)
                    ids = (*example.labels[-1:], *example.negatives[-1:])  # they ascend
                    if ids and max(ids) >= num_classes:
                        raise GroundTruthError(
                            f"{path}: image {example.image_id!r} has class {max(ids)}, and the "
                            f"class list ends with {num_classes - 1}. Write the split again."
                        )
                    yield LabelledImage(
                        example.image_id,
                        np.array(example.labels, np.int64),
                        np.array(example.negatives, np.int64),
                        example.image,
                    )
        except (tfrecord.TFRecordError, schema.SchemaError, OSError) as error:
            raise GroundTruthError(
                f"{path} cannot be read: {error}. Write the split again."
            ) from error


def read_manifest(labels: str, vocabulary: Vocabulary) -> Manifest:
    """The images of label files, as beam_runner.py --source=manifest reads them.

    Rows of one image are merged; what they say is resolved by the rules of the pipeline. Raises
    GroundTruthError with the place of the first row that cannot be read.
    """
    source = sources.make(SourceOptions(source="manifest", images="", labels=labels))
    said: dict[str, list[Annotation]] = {}
    try:
        inventory = source.inventory()
        lines = itertools.chain.from_iterable(
            batch.lines for part in inventory.parts for batch in source.batches(part, "")
        )
        for line in lines:
            row = rows.decode(line.as_py().decode())
            if isinstance(row, BadRow):
                file, _, number = row.place.partition(":")
                raise GroundTruthError(
                    f"{inventory.files[int(file)]}:{number}: {row.detail}. Received: {row.text!r}"
                )
            said.setdefault(row.image_id, []).extend(row.annotations)
    except (SourceError, OSError) as error:
        raise GroundTruthError(str(error)) from error
    rules = LabelRules(vocabulary.classes)
    images, num_unknown = [], 0
    for image_id, of_image in said.items():
        known = rules.resolve(of_image)
        num_unknown += len(known.unknown)
        images.append(
            LabelledImage(
                image_id,
                np.array([positive.class_id for positive in known.positives], np.int64),
                np.array([negative.class_id for negative in known.negatives], np.int64),
                None,
            )
        )
    return Manifest(images, inventory.digest, num_unknown)
