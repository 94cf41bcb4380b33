"""What scores are evaluated on: images with known labels, and what each of their classes weighs."""

import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eval import average_precision as ap
from eval import class_weights, ground_truth
from model import shard_cache
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
    data: str  # folder that beam_runner.py wrote, or label files
    split: metadata.Split  # of label files: without shards
    has_negatives: bool  # some pairs of image and class are verified negatives
    vocabulary: Vocabulary
    weights: np.ndarray  # float64 [num_classes]; all 1 where no file was given
    weights_path: str | None
    weights_sha256: str | None
    manifest: ground_truth.Manifest | None = None  # the images, where label files name them

    @classmethod
    def read(cls, data: str, split: str, weights_path: str | None) -> "EvaluationSet":
        """The split of the dataset, with the weights in a TSV file or (None) all alike.

        Raises MetadataError, ClassWeightsError, or EvaluationError if there is nothing to average.
        """
        vocabulary = metadata.load_vocabulary(data)
        has_negatives = metadata.load_completed(data, split).get("num_negatives", 0) > 0
        return cls._of(
            data, metadata.load_split(data, split), has_negatives, vocabulary, weights_path
        )

    @classmethod
    def of_manifest(
        cls, labels: str, vocabulary: Vocabulary, weights_path: str | None
    ) -> "EvaluationSet":
        """The images of label files, without pixels; see pipeline.sources.manifest.

        Raises GroundTruthError, ClassWeightsError, or EvaluationError if there is nothing to
        average.
        """
        manifest = ground_truth.read_manifest(labels, vocabulary)
        positives = [image.labels for image in manifest.images]
        split = metadata.Split(
            name=Path(labels).name,
            num_examples=len(manifest.images),
            shard_paths=(),
            shard_lengths=(1,) * len(manifest.images),  # parts may begin at any of them
            class_counts=np.bincount(
                np.concatenate([np.empty(0, np.int64), *positives]), minlength=len(vocabulary)
            ),
            fingerprint=manifest.digest,
        )
        has_negatives = any(len(image.negatives) for image in manifest.images)
        return cls._of(labels, split, has_negatives, vocabulary, weights_path, manifest)

    @classmethod
    def _of(
        cls,
        data: str,
        split: metadata.Split,
        has_negatives: bool,
        vocabulary: Vocabulary,
        weights_path: str | None,
        manifest: ground_truth.Manifest | None = None,
    ) -> "EvaluationSet":
        weights, sha256 = np.ones(len(vocabulary)), None
        if weights_path is not None:
            weights = class_weights.read(weights_path, vocabulary)
            sha256 = hashlib.sha256(Path(weights_path).read_bytes()).hexdigest()
        if not weights[split.class_counts > 0].any():
            raise EvaluationError(
                f"Nothing to average: split {split.name!r} of {data} has no positive of a class "
                "whose weight is above 0."
            )
        return cls(data, split, has_negatives, vocabulary, weights, weights_path, sha256, manifest)

    def images(self, part: Part) -> Iterator[ground_truth.LabelledImage]:
        """The images of a part, in order; raises GroundTruthError."""
        if self.manifest is not None:
            return iter(self.manifest.images[part.first_image :][: part.num_images])
        return ground_truth.read_shards(self.split.shard_paths[part.shards], len(self.vocabulary))

    def check_has_shards(self) -> None:
        """EvaluationError where there are no pixels that a network could look at."""
        if self.manifest is not None:
            raise EvaluationError(
                f"{self.data} names images and labels, and a network needs the images: write them "
                "with beam_runner.py, and evaluate with --data and --split."
            )

    def check_same_classes(self, classes: Vocabulary, owner: str) -> None:
        """EvaluationError names the first places where the list of `owner` and this one differ."""
        ours, theirs = classes.classes, self.vocabulary.classes
        if ours == theirs:
            return
        pairs = itertools.zip_longest(map(repr, ours), map(repr, theirs), fillvalue="none")
        differences = [
            f"\n  class {class_id}: {our} and {their}"
            for class_id, (our, their) in enumerate(pairs)
            if our != their
        ]
        what = (
            "They are the same classes in another order"
            if sorted(ours) == sorted(theirs)
            else f"{len(set(ours) ^ set(theirs)):,} classes are in one of them alone"
        )
        raise EvaluationError(
            f"{owner} lists {len(ours):,} classes and {self.data} has {len(theirs):,}; "
            f"{len(differences):,} places differ (the former, then the latter):"
            f"{''.join(differences[:5])}\n{what}. Both must have one class list."
        )

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
        """Turns what TensorFlow says of shards that cannot be read into an EvaluationError.

        Or into the FetchError that says that a store gives no shard now.
        """
        import tensorflow as tf

        try:
            yield
        except tf.errors.UnknownError as error:
            found = shard_cache.error_in(error.message)
            if found is None:
                raise
            if isinstance(found, shard_cache.CacheError):
                raise EvaluationError(str(found)) from error
            raise found from error
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
