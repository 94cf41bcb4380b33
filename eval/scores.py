"""Where scores come from: one face for a checkpoint, a saved model and a file of predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eval.evaluation_set import EvaluationSet, Part

LOGITS = "logits float32"
# How a score becomes the probability of its class, by what the scores are said to be; None: it does
# not. Softmax's logits do not, one by one.
PROBABILITY_OF = {"logits": "sigmoid", "probabilities": "identity", "unknown": None}


@dataclass(frozen=True)
class Batch:
    """Scores of some images, and what is known of them. First axes are of the same length."""

    image_ids: list[str]
    scores: np.ndarray  # float32 [images, classes]; the higher, the likelier
    labels: list[np.ndarray]  # int64 class ids of each image's positives
    negatives: list[np.ndarray]  # int64 class ids of its verified negatives
    images: list[bytes] | None  # the JPEGs, where the source has them


class Scores(Protocol):
    """A source of scores; can be pickled, and reads what it needs at the first batch."""

    def provenance(self) -> dict[str, Any]:
        """What the report says of it.

        source: checkpoint, saved_model or predictions; checkpoint: the path; checkpoint_sha256;
        step and samples (0 where it does not say); parameters: ema, raw, or as_saved;
        score_space: LOGITS, or what its scores are said to be; probability: a value of
        PROBABILITY_OF.
        """
        ...

    def batches(self, evaluation_set: EvaluationSet, part: Part) -> Iterator[Batch]:
        """Every image of a part once, in the order of the evaluation set."""
        ...

    def not_a_number(self, image_id: str, class_key: str) -> ValueError:
        """The error for a score that is NaN."""
        ...
