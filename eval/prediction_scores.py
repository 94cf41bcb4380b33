"""Scores that another program wrote into a file, put beside what is known of the images."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from eval.dense_predictions import DensePredictions
from eval.evaluation_set import EvaluationError, EvaluationSet, Part
from eval.listed_predictions import ListedPredictions
from eval.scores import PROBABILITY_OF, Batch
from pipeline.labels import Vocabulary

FORMATS = (".npy", ".npz", ".parquet")


class PredictionScores:
    """A file of predictions.

    Args:
        predictions: the opened file.
        space: what its scores are, a key of PROBABILITY_OF.
        batch_size: how many images are handed on together.

    Raises EvaluationError where an image id stands twice.
    """

    def __init__(
        self, predictions: DensePredictions | ListedPredictions, space: str, batch_size: int = 64
    ):
        self._predictions, self._space, self._batch_size = predictions, space, batch_size
        ids = predictions.image_ids
        self._rows = {image_id: row for row, image_id in enumerate(ids)}
        if len(self._rows) < len(ids):
            twice = [image_id for image_id, times in Counter(ids).items() if times > 1]
            raise EvaluationError(
                f"{predictions.path} scores {_named(twice, 'image')} more than once."
            )

    def provenance(self) -> dict[str, Any]:
        """See Scores."""
        with open(self._predictions.path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "source": "predictions",
            "checkpoint": self._predictions.path,
            "checkpoint_sha256": sha256,
            "step": 0,
            "samples": 0,
            "parameters": "as_saved",
            "score_space": f"{self._space} {self._predictions.dtype}",
            "probability": PROBABILITY_OF[self._space],
        }

    def batches(self, evaluation_set: EvaluationSet, part: Part) -> Iterator[Batch]:
        """See Scores; EvaluationError names the first images that are missing."""
        missing: list[str] = []
        examples = evaluation_set.images(part)
        while group := list(itertools.islice(examples, self._batch_size)):
            ids = [example.image_id for example in group]
            missing += [image_id for image_id in ids if image_id not in self._rows]
            if not missing:
                jpegs = [example.image for example in group if example.image is not None]
                scores = self._predictions.scores([self._rows[image_id] for image_id in ids])
                self._check_space(scores)
                yield Batch(
                    ids,
                    scores,
                    [example.labels for example in group],
                    [example.negatives for example in group],
                    jpegs if len(jpegs) == len(group) else None,
                )
        if missing:
            is_whole = part.num_images == evaluation_set.split.num_examples
            raise EvaluationError(
                f"{self._predictions.path} has no scores for {'' if is_whole else 'at least '}"
                f"{_named(missing, 'image')} of {evaluation_set.data}. Every image of the "
                "evaluation set must be scored."
            )

    def check_none_left(self, image_ids: Sequence[str], data: str) -> None:
        """EvaluationError names the first images that are scored beside these, which are all."""
        known = set(image_ids)
        extra = [image_id for image_id in self._rows if image_id not in known]
        if extra:
            raise EvaluationError(
                f"{self._predictions.path} scores {_named(extra, 'image')} that {data} does not "
                "have. Leave them out, or evaluate on the images that were scored."
            )

    def not_a_number(self, image_id: str, class_key: str) -> EvaluationError:
        """See Scores."""
        return EvaluationError(
            f"{self._predictions.path} holds NaN for class {class_key!r} of image {image_id!r}."
        )

    def _check_space(self, scores: np.ndarray) -> None:
        if self._space != "probabilities":
            return
        outside = scores[(scores < 0) & (scores > -np.inf) | (scores > 1)]
        if len(outside):
            raise EvaluationError(
                f"{self._predictions.path} is said to hold probabilities. Received: "
                f"{outside[0]:g}. Say --score_space=logits, or unknown, if that is what they are."
            )


def open_predictions(
    path: str, ids_path: str | None, vocabulary: Vocabulary
) -> DensePredictions | ListedPredictions:
    """The predictions of a file, by the end of its name; `vocabulary` is what its classes mean.

    Raises EvaluationError where the file is none, or its ids are missing.
    """
    if path.endswith(".npy"):
        if ids_path is None:
            raise EvaluationError(f"{path} has no image ids: name them with --ids=ids.txt.")
        return DensePredictions(path, ids_path, vocabulary)
    if not path.endswith(FORMATS):
        raise EvaluationError(f"{path}: predictions end with one of {', '.join(FORMATS)}.")
    return ListedPredictions(path, vocabulary)


def _named(items: list[str], what: str) -> str:
    """'3 images (a, b, c)': how many, and the first five."""
    shown = ", ".join(map(repr, items[:5]))
    more = ", ..." if len(items) > 5 else ""
    return f"{len(items):,} {what}{'s' * (len(items) != 1)} ({shown}{more})"
