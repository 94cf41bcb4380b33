"""How good the first few predictions of each image are: hit, precision and recall at k, and GAP@20.

Ranks are those of D1 and D3: the higher score first, of equal scores the lower class id. What is
kept of an image are whole numbers, so that no order of images or of merging changes a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eval.ranking import precision_at_hits
from eval.retrieval import Retrieved, Truth

RANKS = (1, 5, 10, 100)
GAP_RANK = 20

DEFINITIONS = {
    "hit": "Share of the images with labels of which a label is among the {k} highest scores.",
    "precision": (
        "Per image, labels among the {k} highest scores, over {k}; averaged over images with "
        "labels."
    ),
    "recall": (
        "Per image, labels among the {k} highest scores, over its number of labels; averaged over "
        "images with labels."
    ),
    "gap": (
        f"The {GAP_RANK} highest scores of every image make one ranking. 1/n * sum of the "
        "precision at each hit's score; n counts every label of every image."
    ),
}


@dataclass(frozen=True)
class TopResult:
    """What the first predictions are worth; NaN where no image has a label."""

    hit: dict[int, float]  # by k, as `precision` and `recall`
    precision: dict[int, float]
    recall: dict[int, float]
    gap: float
    is_single_label: bool  # every image has exactly one label


class TopPredictions:
    """Counts, of every image, its labels and how many of them are among its first predictions."""

    def __init__(self) -> None:
        self._num_labels: list[np.ndarray] = [np.empty(0, np.int32)]
        self._num_hits: list[np.ndarray] = [np.empty((0, len(RANKS)), np.int32)]
        self._packed: list[np.ndarray] = [np.empty(0, np.uint64)]  # descending score, then hit

    def add(self, best_first: Retrieved, truth: Truth) -> None:
        """Adds a block; what is retrieved is in order of image, then rank."""
        num_images = truth.num_images
        rows, hits = best_first.rows, best_first.hits
        ranks = np.arange(len(rows)) - np.searchsorted(rows, np.arange(num_images))[rows]
        counts = [np.bincount(rows[hits & (ranks < k)], minlength=num_images) for k in RANKS]
        self._num_hits.append(np.stack(counts, axis=1).astype(np.int32))
        self._num_labels.append(np.bincount(truth.rows, minlength=num_images).astype(np.int32))
        first = ranks < GAP_RANK
        self._packed.append(best_first.descending[first] << 1 | hits[first])

    def merge(self, other: TopPredictions) -> None:
        self._num_labels += other._num_labels
        self._num_hits += other._num_hits
        self._packed += other._packed

    def result(self) -> TopResult:
        num_labels, num_hits = np.concatenate(self._num_labels), np.concatenate(self._num_hits)
        labelled = num_labels > 0
        hits = dict(zip(RANKS, num_hits[labelled].T, strict=True))
        packed = np.sort(np.concatenate(self._packed))
        _, precisions = precision_at_hits(packed >> 1, (packed & 1).astype(bool))
        total = int(num_labels.sum())
        return TopResult(
            hit={k: _mean(count > 0) for k, count in hits.items()},
            precision={k: _mean(count) / k for k, count in hits.items()},
            recall={k: _mean(count / num_labels[labelled]) for k, count in hits.items()},
            gap=math.fsum(precisions) / total if total else math.nan,
            is_single_label=bool(len(num_labels) and (num_labels == 1).all()),
        )

    def state(self) -> dict[str, np.ndarray]:
        return {
            "num_labels": np.concatenate(self._num_labels),
            "num_hits": np.concatenate(self._num_hits),
            "packed": np.concatenate(self._packed),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._num_labels, self._num_hits = [state["num_labels"]], [state["num_hits"]]
        self._packed = [state["packed"]]


def _mean(values: np.ndarray) -> float:
    """Rounded once, whatever the order; NaN of nothing."""
    return math.fsum(values) / len(values) if len(values) else math.nan
