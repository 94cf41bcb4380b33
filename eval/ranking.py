"""How D1, D2 and D3 rank what is retrieved: how it is packed, kept and merged, and its precision.

A retrieved pair of image and class is one uint64 whose order is the order of the ranking, so that
sorting plain integers ranks, and equal pairs cannot be told apart: the order in which pairs come
changes nothing. The definitions stand in `average_precision.py`, which is what to import.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from eval.retrieval import (
    LOWEST,
    Retrieved,
    Truth,
    among,
    descending_bits,
    from_descending_bits,
)

_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_CLASSES_TOGETHER = 1000  # that D2 averages; bounds memory, never changes a result


@dataclass(frozen=True)
class Ranked:
    """Retrieved pairs in order of class, then descending score; equal scores without hits first."""

    keys: np.ndarray  # uint64: the class (high 32 bits), the descending score (low 32 bits)
    hits: np.ndarray  # bool
    images: np.ndarray  # uint32, the image's number; of equal keys and hits in any order

    @functools.cached_property
    def tie_starts(self) -> np.ndarray:
        """See tie_starts."""
        return tie_starts(self.keys)

    @functools.cached_property
    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See counts_at_hits."""
        return counts_at_hits(self.keys, self.hits)


class ClassRanking:
    """D1: retrieved pairs, each packed as class (31 bits), descending score (32), hit (1).

    The image stands beside it: average precision does not ask for it, and its interval does.
    """

    def __init__(self, num_classes: int):
        if num_classes >= 1 << 31:
            raise ValueError(f"At most 2^31 - 1 classes can be ranked. Received: {num_classes}.")
        self._num_classes = num_classes
        self._packed: list[np.ndarray] = [np.empty(0, np.uint64)]
        self._images: list[np.ndarray] = [np.empty(0, np.uint32)]
        self._ranked: Ranked | None = None

    def add(self, retrieved: Retrieved, first_image: int = 0) -> None:
        packed = retrieved.classes.astype(np.uint64) << 33
        packed |= retrieved.descending << 1
        packed |= retrieved.hits
        self._packed.append(packed)
        self._images.append((first_image + retrieved.rows).astype(np.uint32))
        self._ranked = None

    def merge(self, other: ClassRanking) -> None:
        self._packed += other._packed
        self._images += other._images
        self._ranked = None

    def result(self, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (average precision, recall) per class, NaN for a class without positives."""
        if self._ranked is not None:
            classes, hits_above, pairs_above = self._ranked.counts
            precisions = hits_above / pairs_above
        else:
            packed = np.concatenate(self._packed)
            packed = packed[(positives > 0)[packed >> 33]]  # of other classes nothing is asked
            packed.sort()
            classes, precisions = precision_at_hits(packed >> 1, (packed & 1).astype(bool))
        num_hits = np.bincount(classes, minlength=self._num_classes)
        total = np.bincount(classes, precisions, minlength=self._num_classes)
        return divide(total, positives), divide(num_hits, positives)

    def ranked(self, positives: np.ndarray) -> Ranked:
        """The pairs of classes with positives; sorts once, also for a `result` that follows."""
        if self._ranked is None:
            packed, images = np.concatenate(self._packed), np.concatenate(self._images)
            asked = (positives > 0)[packed >> 33]
            packed, images = self._sorted(packed[asked], images[asked])
            self._ranked = Ranked(packed >> 1, (packed & 1).astype(bool), images)
        return self._ranked

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores, hits) of all pairs, in no particular order; minus zero has become zero."""
        packed = np.concatenate(self._packed)
        return from_descending_bits(packed >> 1 & 0xFFFFFFFF), (packed & 1).astype(bool)

    def _sorted(self, packed: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image_bits = int(images.max(initial=0)).bit_length()
        if 33 + self._num_classes.bit_length() + image_bits > 64:
            order = np.argsort(packed)
            return packed[order], images[order]
        both = np.sort(packed << image_bits | images)  # in half the time, where both fit
        return both >> image_bits, (both & ((1 << image_bits) - 1)).astype(np.uint32)

    def state(self) -> dict[str, np.ndarray]:
        return {"packed": np.concatenate(self._packed), "images": np.concatenate(self._images)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._packed, self._images = [state["packed"]], [state["images"]]
        self._ranked = None


class TopImages:
    """D2: of each class its k highest-scoring images, in a table that never grows.

    An entry packs descending score (32 bits), image index (31 bits) and hit (1 bit), so that the k
    smallest entries of a row are those to keep, and the earlier image wins at the edge. Few scores
    reach the table: most lie below the class's `floor`, the lowest score that is kept so far.
    """

    def __init__(self, num_classes: int, k: int):
        self._k = k
        self._packed = np.full((num_classes, 2 * k), _EMPTY)
        self._filled = np.zeros(num_classes, np.int64)  # columns in use
        self._floor = np.full(num_classes, LOWEST)

    def add(self, scores: np.ndarray, truth: Truth, first_image: int) -> None:
        if first_image + len(scores) > 1 << 31:
            raise ValueError("At most 2^31 images can be ranked.")
        for start in range(0, len(scores), self._k):
            self._add_at_most_k(scores[start : start + self._k], truth, start, first_image + start)

    def merge(self, other: TopImages) -> None:
        self._keep_best()
        other._keep_best()
        self._packed[:, self._k :] = other._packed[:, : self._k]
        self._keep_best()

    def result(self, positives: np.ndarray) -> np.ndarray:
        """Returns the average precision per class, NaN for a class without positives."""
        self._keep_best()
        totals = []
        for start in range(0, len(positives), _CLASSES_TOGETHER):
            table = np.sort(self._packed[start : start + _CLASSES_TOGETHER, : self._k], axis=1)
            classes, columns = np.nonzero(table != _EMPTY)
            best = table[classes, columns]
            keys = classes.astype(np.uint64) << 32 | best >> 32
            classes, precisions = precision_at_hits(keys, (best & 1).astype(bool))
            totals.append(np.bincount(classes, precisions, minlength=len(table)))
        return divide(np.concatenate(totals), np.minimum(positives, self._k))

    def state(self) -> dict[str, np.ndarray]:
        self._keep_best()
        return {"packed": self._packed[:, : self._k]}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._packed[:, : self._k] = state["packed"]
        self._keep_best()

    def _add_at_most_k(
        self, scores: np.ndarray, truth: Truth, first_row: int, first_image: int
    ) -> None:
        candidates = np.flatnonzero(np.ascontiguousarray((scores >= self._floor).T))
        classes, rows = np.divmod(candidates, len(scores))
        counts = np.bincount(classes, minlength=len(self._floor))
        if (self._filled + counts).max() > 2 * self._k:
            self._keep_best()
        place_in_class = np.arange(len(classes)) - (np.cumsum(counts) - counts)[classes]
        packed = descending_bits(scores[rows, classes]) << 32
        packed |= (first_image + rows).astype(np.uint64) << 1
        of_these = (truth.rows >= first_row) & (truth.rows < first_row + len(scores))
        labels = truth.classes[of_these] * len(scores) + truth.rows[of_these] - first_row
        packed |= among(labels, candidates)
        self._packed[classes, self._filled[classes] + place_in_class] = packed
        self._filled += counts

    def _keep_best(self) -> None:
        """Moves the k best of each class into the first k columns and empties the others."""
        self._packed.partition(self._k - 1, axis=1)
        self._packed[:, self._k :] = _EMPTY
        self._filled[:] = self._k
        kth = self._packed[:, self._k - 1]
        self._floor = np.where(kth == _EMPTY, LOWEST, from_descending_bits(kth >> 32))


class ImageRanking:
    """D3: the average precision of every image, with the class weights and without."""

    def __init__(self, weights: np.ndarray, k: int):
        self._weights, self._k = weights, k
        self._weighted: list[np.ndarray] = []
        self._unweighted: list[np.ndarray] = []

    def add(self, best_first: Retrieved, truth: Truth) -> np.ndarray:
        """Adds a block; returns each image's unweighted average precision, NaN without labels."""
        num_images = truth.num_images
        keys = best_first.rows.astype(np.uint64) << 32 | best_first.descending
        rows, precisions = precision_at_hits(keys, best_first.hits)
        values = []
        for weights in (self._weights, np.ones_like(self._weights)):
            hit_weights = weights[best_first.classes[best_first.hits]]
            total = np.bincount(rows, hit_weights * precisions, minlength=num_images)
            values.append(divide(total, _largest_weights(truth, weights, self._k)))
        self._weighted.append(values[0])
        self._unweighted.append(values[1])
        return values[1]

    def merge(self, other: ImageRanking) -> None:
        if not np.array_equal(self._weights, other._weights):
            raise ValueError("Only states with the same class weights can be merged.")
        self._weighted += other._weighted
        self._unweighted += other._unweighted

    def result(self) -> tuple[float, float]:
        """Returns the mean over images, weighted and unweighted; NaN where no image counts."""
        return mean_of_known(self._weighted), mean_of_known(self._unweighted)

    def state(self) -> dict[str, np.ndarray]:
        return {
            "weights": self._weights,
            "weighted": np.concatenate([np.empty(0), *self._weighted]),
            "unweighted": np.concatenate([np.empty(0), *self._unweighted]),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._weighted, self._unweighted = [state["weighted"]], [state["unweighted"]]


def precision_at_hits(keys: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the group and the precision of every hit of ranked pairs, in their order.

    Args:
        keys: uint64, ascending: the group (high 32 bits), then the descending score (low 32 bits).
        hits: bool, beside the keys.
    """
    groups, num_hits, num_ranked = counts_at_hits(keys, hits)
    return groups, num_hits / num_ranked


def counts_at_hits(keys: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns of every hit its group, and how many hits and pairs of it score at least as high."""
    where = np.flatnonzero(hits)
    groups = (keys[where] >> 32).astype(np.int64)
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))  # of the hits, the first of each group
    starts = np.searchsorted(keys, groups[firsts].astype(np.uint64) << 32)
    hits_of_group = np.diff(firsts, append=len(groups))
    ends = _ends_of_ties(keys, where)  # equal scores share one threshold
    num_hits = np.cumsum(hits)[ends - 1] - np.repeat(firsts, hits_of_group)
    return groups, num_hits, ends - np.repeat(starts, hits_of_group)


def _ends_of_ties(keys: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Where, after these places in ascending keys, the next higher key comes."""
    ends = where + 1
    is_last = np.append(keys[1:] != keys[:-1], True)
    open_ties = np.flatnonzero(~is_last[where])  # few: the hits stand last among their equals
    if len(open_ties):
        lasts = np.flatnonzero(is_last)
        ends[open_ties] = lasts[np.searchsorted(lasts, where[open_ties])] + 1
    return ends


def tie_starts(keys: np.ndarray) -> np.ndarray:
    """Of every one of ascending keys where its equals start."""
    is_first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    return np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))


def _largest_weights(truth: Truth, weights: np.ndarray, k: int) -> np.ndarray:
    """Sums, for each image, the k largest weights among its labels."""
    label_weights = weights[truth.classes]
    order = np.lexsort((-label_weights, truth.rows))
    rows, label_weights = truth.rows[order], label_weights[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    counted = rank < k
    return np.bincount(rows[counted], label_weights[counted], minlength=truth.num_images)


def mean_of_known(parts: list[np.ndarray]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    values = np.concatenate([np.empty(0), *parts])
    known = values[~np.isnan(values)]
    return math.fsum(known) / len(known) if len(known) else math.nan


def divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Divides, with NaN where the count is 0."""
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
