"""Average precision without a cut: every image ranks in every class, and every pair in one ranking.

What the precision at a hit is shows only when the last image has been seen, so that every score
must be kept: in a temporary file, 4 bytes each. It is read once more at the end, some columns at a
time. Ties share one threshold; a score of minus infinity is not ranked.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from eval.ranking import divide
from eval.retrieval import LOWEST, Truth

MAX_SCORES = 1 << 32  # 16 GB of temporary file; what is larger is evaluated with the cut alone
# Scores that a thread sorts together, and threads: they bound memory, and never change a result.
_CHUNK_SCORES, _MAX_THREADS = 1 << 22, 4

DEFINITIONS = {
    "macro": (
        "Without a cut: per class all images are ranked by the class's score, equal scores with "
        "one threshold, and AP = 1/n * sum of the precision at each of its n positives."
    ),
    "micro": (
        "Without a cut: all pairs of image and class make one ranking, equal scores with one "
        "threshold, and AP = 1/n * sum of the precision at each of the n labels."
    ),
}


@dataclass(frozen=True)
class UncutResult:
    """NaN where there is no positive."""

    class_ap: np.ndarray  # float64 [num_classes]
    micro_ap: float


class UncutRanking:
    """Keeps all scores of the images that are added, in a temporary file that ends with it."""

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._num_images = 0
        self._classes: list[np.ndarray] = [np.empty(0, np.int64)]  # of every label
        self._scores: list[np.ndarray] = [np.empty(0, np.float32)]  # of every label

    def add(self, scores: np.ndarray, truth: Truth) -> None:
        """Adds images: float32 [images, classes], without NaN, and their labels."""
        self._classes.append(truth.classes)
        self._scores.append(scores[truth.rows, truth.classes])
        self._file.write(np.ascontiguousarray(scores).data)
        self._num_images += len(scores)

    def merge(self, other: UncutRanking) -> None:
        self._classes += other._classes
        self._scores += other._scores
        other._file.seek(0)
        shutil.copyfileobj(other._file, self._file, _CHUNK_SCORES)
        self._num_images += other._num_images

    def result(self, num_cores: int = 1) -> UncutResult:
        """The averages, by as many threads as there are cores, _MAX_THREADS at most."""
        classes, scores = np.concatenate(self._classes), np.concatenate(self._scores)
        positives = np.bincount(classes, minlength=self._num_classes)
        order = np.lexsort((scores, classes))
        by_class = np.split(scores[order], np.cumsum(positives)[:-1])
        ranked = np.sort(scores[scores >= LOWEST])
        num_ranked = np.zeros(len(ranked), np.int64)
        total = np.zeros(self._num_classes)
        all_scores = self._all_scores()

        def look_at(first: int) -> np.ndarray:
            """Fills in totals of some columns; how many of their scores reach each of `ranked`."""
            columns = np.array(all_scores[:, first : first + width].T, order="C")
            with_positives = np.flatnonzero(positives[first : first + width])
            for class_id, column in zip(
                first + with_positives, np.sort(columns[with_positives], axis=1), strict=True
            ):
                total[class_id] = _sum_of_precisions(by_class[class_id], column)
            flat = columns.reshape(-1)
            flat.sort()
            return len(flat) - np.searchsorted(flat, ranked)

        width = max(1, _CHUNK_SCORES // max(1, self._num_images))
        with ThreadPoolExecutor(min(_MAX_THREADS, num_cores)) as threads:
            for found in threads.map(look_at, range(0, self._num_classes, width)):
                num_ranked += found
        micro = math.fsum(_num_at_least(ranked) / num_ranked)
        return UncutResult(
            class_ap=divide(total, positives),
            micro_ap=micro / len(scores) if len(scores) else math.nan,
        )

    def state(self) -> dict[str, np.ndarray]:
        """Its arrays; the last one, all scores, is a memory map of the temporary file."""
        return {
            "classes": np.concatenate(self._classes),
            "scores": np.concatenate(self._scores),
            "all_scores": self._all_scores(),
        }

    def restore(self, state: dict[str, np.ndarray], all_scores: BinaryIO) -> None:
        """Takes the arrays of `state`, the last one as an .npy file."""
        version = np.lib.format.read_magic(all_scores)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, _ = read_header(all_scores)
        self._classes, self._scores = [state["classes"]], [state["scores"]]
        shutil.copyfileobj(all_scores, self._file, _CHUNK_SCORES)
        self._num_images = shape[0]

    def _all_scores(self) -> np.ndarray:
        """float32 [images, classes], mapped."""
        self._file.flush()
        shape = (self._num_images, self._num_classes)
        if not self._num_images:
            return np.empty(shape, np.float32)
        return np.memmap(self._file, np.float32, "r", shape=shape)


def _sum_of_precisions(hits: np.ndarray, all_scores: np.ndarray) -> float:
    """Over the hits of a class that are ranked; both its hits' scores and all ascend."""
    hits = hits[np.searchsorted(hits, LOWEST) :]
    return math.fsum(_num_at_least(hits) / (len(all_scores) - np.searchsorted(all_scores, hits)))


def _num_at_least(ascending: np.ndarray) -> np.ndarray:
    """How many of these values are at least as high as each of them."""
    return len(ascending) - np.searchsorted(ascending, ascending)
