"""Predictions of any framework: a score for every image and class, memory-mapped.

scores.npy     float32 or float16 [images, classes]
ids.txt        the image id of each row, a line each
classes.tsv    the class of each column, as a class list (see pipeline.labels)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eval.evaluation_set import EvaluationError
from pipeline.labels import Vocabulary


class DensePredictions:
    """A matrix of scores. Raises EvaluationError where the three files do not fit each other."""

    def __init__(self, path: str, ids_path: str, vocabulary: Vocabulary):
        self.path, self.vocabulary = path, vocabulary
        self.image_ids = read_ids(ids_path)
        scores = self._open()
        if scores.dtype not in (np.float32, np.float16) or scores.ndim != 2:
            raise EvaluationError(
                f"{path} must hold float32 or float16 [images, classes]. "
                f"Received: {scores.dtype} of shape {list(scores.shape)}."
            )
        wanted = (len(self.image_ids), len(vocabulary))
        if scores.shape != wanted:
            raise EvaluationError(
                f"{path} has {scores.shape[0]:,} rows and {scores.shape[1]:,} columns, but "
                f"{ids_path} names {wanted[0]:,} images and the class list {wanted[1]:,} classes."
            )
        self.dtype = str(scores.dtype)
        self._scores: np.ndarray | None = None

    def __getstate__(self) -> dict[str, object]:
        """All but the mapped file, which another process maps for itself."""
        return {**self.__dict__, "_scores": None}

    def scores(self, rows: list[int]) -> np.ndarray:
        """float32 [rows, classes]."""
        if self._scores is None:
            self._scores = self._open()
        return self._scores[rows].astype(np.float32, copy=False)

    def _open(self) -> np.ndarray:
        try:
            return np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise EvaluationError(f"{self.path} is no .npy file of numbers: {error}.") from error


def read_ids(path: str) -> list[str]:
    """The ids of a file, a line each; raises EvaluationError where it is not text."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} is not UTF-8 text: {error}.") from error
    return text.removesuffix("\n").split("\n") if text else []
