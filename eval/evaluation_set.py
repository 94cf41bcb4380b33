"""What scores are evaluated on: a split of a dataset, and what each of its classes weighs."""

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eval import average_precision as ap
from eval import class_weights
from pipeline import metadata
from pipeline.labels import Vocabulary


class EvaluationError(ValueError):
    """Something that cannot be evaluated; the message says why."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Images that follow each other, which one process evaluates."""

    shards: slice  # which of the split's shards
    first_image: int  # number of the first one in the split, from 0
    num_images: int


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    data: str  # folder that beam_runner.py wrote
    split: metadata.Split
    has_negatives: bool  # some pairs of image and class are verified negatives
    vocabulary: Vocabulary
    weights: np.ndarray  # float64 [num_classes]; all 1 where no file was given
    weights_path: str | None
    weights_sha256: str | None

    @classmethod
    def read(cls, data: str, split: str, weights_path: str | None) -> "EvaluationSet":
        """The split of the dataset, with the weights in a TSV file or (None) all alike.

        Raises MetadataError, ClassWeightsError, or EvaluationError if there is nothing to average.
        """
        vocabulary = metadata.load_vocabulary(data)
        weights, sha256 = np.ones(len(vocabulary)), None
        if weights_path is not None:
            weights = class_weights.read(weights_path, vocabulary)
            sha256 = hashlib.sha256(Path(weights_path).read_bytes()).hexdigest()
        has_negatives = metadata.load_completed(data, split).get("num_negatives", 0) > 0
        found = metadata.load_split(data, split)
        if not weights[found.class_counts > 0].any():
            raise EvaluationError(
                f"Nothing to average: split {split!r} of {data} has no positive of a class whose "
                "weight is above 0."
            )
        return cls(data, found, has_negatives, vocabulary, weights, weights_path, sha256)

    def class_ids(self, keys: list[str] | None) -> list[int] | None:
        """The ids of classes by their keys; EvaluationError names the first that are unknown."""
        if keys is None:
            return None
        index = self.vocabulary.index
        unknown = [key for key in keys if key not in index]
        if unknown:
            raise EvaluationError(
                f"{len(unknown)} of {len(keys)} classes are not in the class list of {self.data}: "
                f"{', '.join(map(repr, unknown[:5]))}. Name classes as its first column does."
            )
        return [index[key] for key in keys]

    def whole(self) -> Part:
        """All images."""
        return self.parts(1)[0]

    def parts(self, count: int) -> list[Part]:
        """The images cut by shard into at most `count` parts that are about as large; none empty.

        Tallies of the parts merge into the tally of the whole.
        """
        ends = np.cumsum(self.split.shard_lengths)
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, count) / count, side="left") + 1
        borders = [0, *cuts.tolist(), len(ends)]
        parts = []
        for start, stop in itertools.pairwise(borders):
            first_image = int(ends[start - 1]) if start else 0
            num_images = int(ends[stop - 1]) - first_image if stop > start else 0
            if num_images:
                parts.append(Part(slice(start, stop), first_image, num_images))
        return parts

    @contextlib.contextmanager
    def reading_shards(self) -> Iterator[None]:
        """Turns what TensorFlow says of shards that cannot be read into an EvaluationError."""
        import tensorflow as tf

        try:
            yield
        except (
            tf.errors.DataLossError,
            tf.errors.InvalidArgumentError,
            tf.errors.NotFoundError,
        ) as error:
            raise EvaluationError(
                f"The shards of split {self.split.name!r} in {self.data} cannot be read: "
                f"{error.message.splitlines()[0]}. Write the split again."
            ) from error

    def conditions(self, parameters: str) -> dict[str, Any]:
        """What must agree for two evaluations to be points of one training profile."""
        return {
            "split": self.split.name,
            "parameters": parameters,
            "data_fingerprint": self.split.fingerprint,
            "class_weights_sha256": self.weights_sha256,
            "k": ap.K,
        }
