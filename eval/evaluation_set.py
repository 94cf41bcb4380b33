"""What checkpoints are evaluated on: a split of a dataset, and what each of its classes weighs."""

import dataclasses
import hashlib
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
class EvaluationSet:
    data: str  # folder that beam_runner.py wrote
    split: metadata.Split
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
        evaluation_set = cls(
            data, metadata.load_split(data, split), vocabulary, weights, weights_path, sha256
        )
        if not weights[evaluation_set.split.class_counts > 0].any():
            raise EvaluationError(
                f"Nothing to average: split {split!r} of {data} has no positive of a class whose "
                "weight is above 0."
            )
        return evaluation_set

    def conditions(self, parameters: str) -> dict[str, Any]:
        """What must agree for two evaluations to be points of one training profile."""
        return {
            "split": self.split.name,
            "parameters": parameters,
            "data_fingerprint": self.split.fingerprint,
            "class_weights_sha256": self.weights_sha256,
            "k": ap.K,
        }
