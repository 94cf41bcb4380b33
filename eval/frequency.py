"""Head, torso and tail: the classes of a report by how often training showed them."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Group:
    """A third of the classes that have positives in the evaluated split."""

    name: str
    class_ids: np.ndarray  # most frequent first
    lowest_count: int  # training images of its rarest class
    highest_count: int
    mean_average_precision: float  # unweighted
    mean_recall: float


def groups(classes: dict[str, list[Any]]) -> list[Group]:
    """Head, torso and tail, most frequent first; fewer where there are fewer than three classes.

    Args:
        classes: the columns `training_count`, `average_precision` and `recall` of a report.
    """
    ap = np.array(classes["average_precision"], np.float64)  # None becomes NaN
    recall = np.array(classes["recall"], np.float64)
    counts = np.array(classes["training_count"])
    known = np.flatnonzero(~np.isnan(ap))
    by_count = known[np.argsort(-counts[known], kind="stable")]
    return [
        Group(
            name=name,
            class_ids=ids,
            lowest_count=int(counts[ids].min()),
            highest_count=int(counts[ids].max()),
            mean_average_precision=float(ap[ids].mean()),
            mean_recall=float(recall[ids].mean()),
        )
        for name, ids in zip(("head", "torso", "tail"), np.array_split(by_count, 3), strict=True)
        if len(ids)
    ]
