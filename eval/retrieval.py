"""What is retrieved of an image: its highest scores, and which of them are labels.

A score is kept as an integer whose order is that of the ranking, see `descending_bits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LOWEST = np.finfo(np.float32).min  # what is lower, minus infinity, is not scored
_MOST_FOLDS, _GROUPS_OF_K = 32, 5  # fastest at 17,000 classes and k = 100; change no result


@dataclass(frozen=True)
class Truth:
    """The labels of a block of images: pairs in order of image, then class, each once."""

    rows: np.ndarray
    classes: np.ndarray
    places: np.ndarray  # row * num_classes + class: where the pair stands in a block of scores
    num_images: int


def truth_of(labels: Sequence[np.ndarray], num_classes: int) -> Truth:
    """The labels of a block, given as the class ids of each image; repeated ids count once."""
    rows = np.repeat(np.arange(len(labels)), [len(ids) for ids in labels])
    classes = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.int64, copy=False)
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        raise ValueError(
            f"Class ids must be in 0..{num_classes - 1}. Received: {classes[outside][0]}."
        )
    places = rows * num_classes + classes
    if not (places[1:] > places[:-1]).all():
        places = np.unique(places)
        rows, classes = np.divmod(places, num_classes)
    return Truth(rows, classes, places, len(labels))


@dataclass(frozen=True)
class Retrieved:
    """The k highest scores of each image of a block: pairs in order of image, then class."""

    rows: np.ndarray
    classes: np.ndarray
    descending: np.ndarray  # uint64: the higher the score, the lower
    hits: np.ndarray  # bool

    def best_first(self) -> Retrieved:
        """The pairs in order of image, then descending score, then class."""
        order = np.argsort(self.rows.astype(np.uint64) << 32 | self.descending, kind="stable")
        return Retrieved(
            self.rows[order], self.classes[order], self.descending[order], self.hits[order]
        )


def retrieve(
    scores: np.ndarray, truth: Truth, k: int, floors: np.ndarray | None = None
) -> Retrieved:
    """Each image's k highest scores; at the edge the lower class id wins.

    Args:
        scores: float32 [images, classes], without NaN. Minus infinity is never retrieved.
        truth: of these images.
        floors: of these images, where `floors_of_best` gave them already.
    """
    if floors is None:
        floors = floors_of_best(scores, k)
    num_images, num_classes = scores.shape
    flat = np.flatnonzero(scores >= floors[:, None])
    kept = scores.reshape(-1)[flat]
    rows = flat // num_classes
    counts = np.bincount(rows, minlength=num_images)
    if counts.max(initial=0) > k:
        best = np.flatnonzero(_are_best(kept, rows, counts, k))
        flat, rows, kept = flat[best], rows[best], kept[best]
    return Retrieved(
        rows, flat - rows * num_classes, descending_bits(kept), among(truth.places, flat)
    )


def floors_of_best(scores: np.ndarray, k: int) -> np.ndarray:
    """A score that at least k of each image's reach, and few more; the lowest where k do not.

    NaN for an image with a score that is NaN.

    Classes are folded into groups, and the k-th highest of the groups' maxima is taken: as many
    scores, one of each group, are no lower. One pass and a small partition, where a partition of
    all scores would take several times as long.
    """
    num_images, num_classes = scores.shape
    folds = min(_MOST_FOLDS, num_classes // (_GROUPS_OF_K * k))
    best = scores
    if folds > 1:
        groups = num_classes // folds
        folded = scores[:, : folds * groups].reshape(num_images, folds, groups).max(axis=1)
        best = np.concatenate([folded, scores[:, folds * groups :]], axis=1)
    floors = np.full(num_images, LOWEST)
    if best.shape[1] > k:
        kth = best.shape[1] - k
        floors = np.maximum(np.partition(best, kth, axis=1)[:, kth], LOWEST)
    floors[np.isnan(best.max(axis=1, initial=-np.inf))] = np.nan  # a maximum with NaN is NaN
    return floors


def _are_best(values: np.ndarray, rows: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Which values, in order of row, are among their row's k highest; of equal ones the first."""
    firsts = np.cumsum(counts) - counts
    edges = _kth_of_rows(values, rows, np.arange(len(rows)) - firsts[rows], counts, k)[rows]
    best = values >= edges
    if np.count_nonzero(best) > np.minimum(counts, k).sum():
        above, tied = values > edges, values == edges
        free = k - np.bincount(rows[above], minlength=len(counts))
        ties_before = np.cumsum(tied) - tied
        ties_before -= ties_before[np.minimum(firsts, len(rows) - 1)][rows]
        best = above | tied & (ties_before < free[rows])
    return best


def _kth_of_rows(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, counts: np.ndarray, k: int
) -> np.ndarray:
    """The k-th highest of each row's values, minus infinity where there are fewer."""
    width = counts.max()
    table = np.full((len(counts), width), -np.inf, np.float32)
    table[rows, columns] = values
    table.sort(axis=1)  # faster than a partition: rows are short
    return table[:, width - k]


def descending_bits(scores: np.ndarray) -> np.ndarray:
    """Maps float32 to uint64 below 2^32 so that a higher score has a lower number."""
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0: minus zero equals zero
    return np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF)).astype(np.uint64)


def from_descending_bits(bits: np.ndarray) -> np.ndarray:
    """The float32 scores of `descending_bits`."""
    bits = bits.astype(np.uint32)
    return np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF)).view(np.float32)


def among(some: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Whether each of many ascending numbers is one of some others."""
    found = np.zeros(len(ascending), bool)
    if len(ascending):
        places = np.minimum(np.searchsorted(ascending, some), len(ascending) - 1)
        found[places[ascending[places] == some]] = True
    return found
