"""How D1, D2 and D3 rank: what is retrieved, how it is packed, kept and merged, and its precision.

A retrieved pair of image and class is one uint64 whose order is the order of the ranking, so that
sorting plain integers ranks, and equal pairs cannot be told apart: the order in which pairs come
changes nothing. The definitions stand in `average_precision.py`, which is what to import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LOWEST = np.finfo(np.float32).min
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Truth:
    """The labels of a block of images: as pairs in order of image, then class; and as a matrix."""

    rows: np.ndarray
    classes: np.ndarray
    matrix: np.ndarray  # bool [images, classes]


def truth_of(labels: Sequence[np.ndarray], num_classes: int) -> Truth:
    """The labels of a block, given as the class ids of each image; repeated ids count once."""
    rows = np.repeat(np.arange(len(labels)), [len(ids) for ids in labels])
    classes = np.concatenate([np.empty(0, np.int64), *labels]).astype(np.int64, copy=False)
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        raise ValueError(
            f"Class ids must be in 0..{num_classes - 1}. Received: {classes[outside][0]}."
        )
    pairs = np.unique(rows * num_classes + classes)
    matrix = np.zeros((len(labels), num_classes), bool)
    matrix.reshape(-1)[pairs] = True
    return Truth(*np.divmod(pairs, num_classes), matrix)


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


def retrieve(scores: np.ndarray, truth: np.ndarray, k: int) -> Retrieved:
    """Each image's k highest scores; at the edge the lower class id wins.

    Args:
        scores: float32 [images, classes], without NaN. Minus infinity is never retrieved.
        truth: bool [images, classes].
    """
    num_images, num_classes = scores.shape
    edge = np.full(num_images, -np.inf, np.float32)
    if num_classes > k:
        edge = np.partition(scores, num_classes - k, axis=1)[:, num_classes - k]
    flat = np.flatnonzero(scores >= np.maximum(edge, _LOWEST)[:, None])
    rows = flat // num_classes
    kept = scores.reshape(-1)[flat]
    if np.bincount(rows, minlength=1).max() > k:
        tied = kept == edge[rows]
        free = k - np.bincount(rows[~tied], minlength=num_images)
        ties_before = np.cumsum(tied) - tied
        ties_before -= ties_before[np.searchsorted(rows, rows)]
        keep = ~tied | (ties_before < free[rows])
        flat, rows, kept = flat[keep], rows[keep], kept[keep]
    return Retrieved(
        rows, flat - rows * num_classes, descending_bits(kept), truth.reshape(-1)[flat]
    )


@dataclass(frozen=True)
class Ranked:
    """Retrieved pairs in order of class, then descending score; equal scores without hits first."""

    keys: np.ndarray  # uint64: the class (high 32 bits), the descending score (low 32 bits)
    hits: np.ndarray  # bool
    images: np.ndarray  # uint32, the image's number; of equal keys and hits in any order

    @property
    def classes(self) -> np.ndarray:
        return (self.keys >> 32).astype(np.int64)

    @property
    def scores(self) -> np.ndarray:
        """float32; minus zero has become zero."""
        return from_descending_bits(self.keys & 0xFFFFFFFF)


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

    def add(self, retrieved: Retrieved, first_image: int = 0) -> None:
        packed = retrieved.classes.astype(np.uint64) << 33
        packed |= retrieved.descending << 1
        packed |= retrieved.hits
        self._packed.append(packed)
        self._images.append((first_image + retrieved.rows).astype(np.uint32))

    def merge(self, other: ClassRanking) -> None:
        self._packed += other._packed
        self._images += other._images

    def result(self, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (average precision, recall) per class, NaN for a class without positives."""
        packed = np.concatenate(self._packed)
        packed.sort()
        classes, precisions = precision_at_hits(packed >> 1, (packed & 1).astype(bool))
        num_hits = np.bincount(classes, minlength=self._num_classes)
        total = np.bincount(classes, precisions, minlength=self._num_classes)
        return divide(total, positives), divide(num_hits, positives)

    def ranked(self) -> Ranked:
        """All pairs with their images, in order; takes several times what `result` takes."""
        packed = np.concatenate(self._packed)
        order = np.argsort(packed)
        packed = packed[order]
        images = np.concatenate(self._images)[order]
        return Ranked(packed >> 1, (packed & 1).astype(bool), images)

    def state(self) -> dict[str, np.ndarray]:
        return {"packed": np.concatenate(self._packed), "images": np.concatenate(self._images)}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._packed, self._images = [state["packed"]], [state["images"]]


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
        self._floor = np.full(num_classes, _LOWEST)

    def add(self, scores: np.ndarray, truth: np.ndarray, first_image: int) -> None:
        if first_image + len(scores) > 1 << 31:
            raise ValueError("At most 2^31 images can be ranked.")
        for start in range(0, len(scores), self._k):
            rows = slice(start, start + self._k)
            self._add_at_most_k(scores[rows], truth[rows], first_image + start)

    def merge(self, other: TopImages) -> None:
        self._keep_best()
        other._keep_best()
        self._packed[:, self._k :] = other._packed[:, : self._k]
        self._keep_best()

    def result(self, positives: np.ndarray) -> np.ndarray:
        """Returns the average precision per class, NaN for a class without positives."""
        self._keep_best()
        self._packed[:, : self._k].sort(axis=1)
        classes, columns = np.nonzero(self._packed != _EMPTY)
        best = self._packed[classes, columns]
        keys = classes.astype(np.uint64) << 32 | best >> 32
        classes, precisions = precision_at_hits(keys, (best & 1).astype(bool))
        total = np.bincount(classes, precisions, minlength=len(positives))
        return divide(total, np.minimum(positives, self._k))

    def state(self) -> dict[str, np.ndarray]:
        self._keep_best()
        return {"packed": self._packed[:, : self._k]}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        self._packed[:, : self._k] = state["packed"]
        self._keep_best()

    def _add_at_most_k(self, scores: np.ndarray, truth: np.ndarray, first_image: int) -> None:
        candidates = np.flatnonzero(np.ascontiguousarray((scores >= self._floor).T))
        classes, rows = np.divmod(candidates, len(scores))
        counts = np.bincount(classes, minlength=len(self._floor))
        if (self._filled + counts).max() > 2 * self._k:
            self._keep_best()
        place_in_class = np.arange(len(classes)) - (np.cumsum(counts) - counts)[classes]
        packed = descending_bits(scores[rows, classes]) << 32
        packed |= (first_image + rows).astype(np.uint64) << 1
        packed |= truth[rows, classes]
        self._packed[classes, self._filled[classes] + place_in_class] = packed
        self._filled += counts

    def _keep_best(self) -> None:
        """Moves the k best of each class into the first k columns and empties the others."""
        self._packed.partition(self._k - 1, axis=1)
        self._packed[:, self._k :] = _EMPTY
        self._filled[:] = self._k
        kth = self._packed[:, self._k - 1]
        self._floor = np.where(kth == _EMPTY, _LOWEST, from_descending_bits(kth >> 32))


class ImageRanking:
    """D3: the average precision of every image, with the class weights and without."""

    def __init__(self, weights: np.ndarray, k: int):
        self._weights, self._k = weights, k
        self._weighted: list[np.ndarray] = []
        self._unweighted: list[np.ndarray] = []

    def add(self, best_first: Retrieved, truth: Truth) -> np.ndarray:
        """Adds a block; returns each image's unweighted average precision, NaN without labels."""
        num_images = len(truth.matrix)
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
    where = np.flatnonzero(hits)
    keys_of_hits = keys[where]
    groups = keys_of_hits >> 32
    starts = np.searchsorted(keys, groups << 32)
    ends = np.searchsorted(keys, keys_of_hits, side="right")  # equal scores share one threshold
    num_hits = np.searchsorted(where, ends) - np.searchsorted(where, starts)
    return groups.astype(np.int64), num_hits / (ends - starts)


def descending_bits(scores: np.ndarray) -> np.ndarray:
    """Maps float32 to uint64 below 2^32 so that a higher score has a lower number."""
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0: minus zero equals zero
    return np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF)).astype(np.uint64)


def from_descending_bits(bits: np.ndarray) -> np.ndarray:
    """The float32 scores of `descending_bits`."""
    bits = bits.astype(np.uint32)
    return np.where(bits >> 31, bits, ~bits & np.uint32(0x7FFFFFFF)).view(np.float32)


def _largest_weights(truth: Truth, weights: np.ndarray, k: int) -> np.ndarray:
    """Sums, for each image, the k largest weights among its labels."""
    label_weights = weights[truth.classes]
    order = np.lexsort((-label_weights, truth.rows))
    rows, label_weights = truth.rows[order], label_weights[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    counted = rank < k
    return np.bincount(rows[counted], label_weights[counted], minlength=len(truth.matrix))


def mean_of_known(parts: list[np.ndarray]) -> float:
    """The mean of the values that are not NaN; NaN if there are none."""
    values = np.concatenate([np.empty(0), *parts])
    known = values[~np.isnan(values)]
    return math.fsum(known) / len(known) if len(known) else math.nan


def divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Divides, with NaN where the count is 0."""
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
