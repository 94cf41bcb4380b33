"""Precision and recall of a class at every score that D1 retrieved it with."""

from __future__ import annotations

from typing import Any

import numpy as np

from eval.average_precision import Result
from eval.ranking import Ranked

MAX_POINTS = 200


def curve(ranked: Ranked, class_id: int, num_positives: int) -> dict[str, list[float]]:
    """The curve of a class with positives, from the highest score down, of at most MAX_POINTS.

    A point stands for a distinct score: what was retrieved with at least that.
    """
    borders = np.array([class_id, class_id + 1], np.uint64) << np.uint64(32)
    start, end = np.searchsorted(ranked.keys, borders).tolist()
    keys, num_hits = ranked.keys[start:end], np.cumsum(ranked.hits[start:end])
    ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)) if len(keys) else np.arange(0)
    if len(ends) > MAX_POINTS:
        ends = ends[np.linspace(0, len(ends) - 1, MAX_POINTS).round().astype(np.int64)]
    return {
        "recall": (num_hits[ends] / num_positives).tolist(),
        "precision": (num_hits[ends] / (ends + 1)).tolist(),
    }


def telling_classes(result: Result, weights: np.ndarray) -> list[int]:
    """A few classes with positives: the heaviest, the best, the median and the worst by D1."""
    known = np.flatnonzero(result.positives > 0)
    if not len(known):
        return []
    by_ap = known[np.argsort(-result.class_ap[known], kind="stable")]
    heaviest = known[np.argmax(weights[known])]
    chosen: dict[Any, None] = dict.fromkeys([heaviest, by_ap[0], by_ap[len(by_ap) // 2], by_ap[-1]])
    return [int(class_id) for class_id in chosen]
