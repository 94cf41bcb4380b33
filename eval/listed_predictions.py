"""Predictions of any framework: for each image a list of classes and their scores.

    predictions.npz        image_ids [n] text, classes [n, k] text or class ids, scores [n, k];
                           a class of "" or -1 ends a list
    predictions.parquet    columns image_id: string, classes: list of strings or of class ids,
                           scores: list of floats

A class that is not in an image's list is not scored: minus infinity, never retrieved. Class ids
are places in the class list, from 0. Neither file may hold pickled objects.
"""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np

from eval.evaluation_set import EvaluationError
from pipeline.labels import Vocabulary


class ListedPredictions:
    """Lists of scores. Raises EvaluationError where the file is damaged or of other classes."""

    def __init__(self, path: str, vocabulary: Vocabulary):
        self.path, self.vocabulary = path, vocabulary
        read = _read_parquet if path.endswith(".parquet") else _read_npz
        self.image_ids, lengths, classes, scores = read(path)
        self.dtype = str(scores.dtype)
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        self._classes = _class_ids(path, classes, vocabulary)
        self._scores = scores.astype(np.float32, copy=False)
        self._check_each_class_once()

    def scores(self, rows: list[int]) -> np.ndarray:
        """float32 [rows, classes]."""
        found = np.full((len(rows), len(self.vocabulary)), -np.inf, np.float32)
        for place, row in enumerate(rows):
            pairs = slice(self._starts[row], self._ends[row])
            found[place, self._classes[pairs]] = self._scores[pairs]
        return found

    def _check_each_class_once(self) -> None:
        images = np.repeat(np.arange(len(self._ends)), self._ends - self._starts)
        pairs = np.sort(images * len(self.vocabulary) + self._classes)
        twice = pairs[1:][pairs[1:] == pairs[:-1]]
        if len(twice):
            image, class_id = divmod(int(twice[0]), len(self.vocabulary))
            raise EvaluationError(
                f"{self.path} scores class {self.vocabulary.classes[class_id]!r} of image "
                f"{self.image_ids[image]!r} twice."
            )


def _read_npz(path: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """(image ids, pairs of each image, class of each pair, score of each pair)."""
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            ids, classes, scores = (file[name] for name in ("image_ids", "classes", "scores"))
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise EvaluationError(
            f"{path} cannot be read: {error}. It must hold the arrays image_ids, classes and "
            "scores, without pickled objects."
        ) from error
    if classes.ndim != 2 or scores.shape != classes.shape or ids.shape != classes.shape[:1]:
        raise EvaluationError(
            f"{path} must hold image_ids [n], classes [n, k] and scores [n, k]. Received: "
            f"{list(ids.shape)}, {list(classes.shape)} and {list(scores.shape)}."
        )
    used = classes != "" if classes.dtype.kind in "US" else classes >= 0
    return _texts(ids), used.sum(axis=1), classes[used], _floats(path, scores[used])


def _read_parquet(path: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """As `_read_npz`."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path, columns=["image_id", "classes", "scores"])
        ids, classes, scores = (table[name].combine_chunks() for name in table.column_names)
        lengths = [array.value_lengths().fill_null(0).to_numpy() for array in (classes, scores)]
    except (pa.ArrowException, AttributeError, KeyError) as error:
        raise EvaluationError(
            f"{path} cannot be read: {error}. It must have the columns image_id, classes (lists) "
            "and scores (lists)."
        ) from error
    unequal = np.flatnonzero(lengths[0] != lengths[1])
    if len(unequal):
        raise EvaluationError(
            f"{path}: image {ids[int(unequal[0])].as_py()!r} has {lengths[0][unequal[0]]} classes "
            f"and {lengths[1][unequal[0]]} scores."
        )
    flat = [array.flatten().to_numpy(zero_copy_only=False) for array in (classes, scores)]
    return ids.to_pylist(), lengths[0], flat[0], _floats(path, flat[1])


def _class_ids(path: str, classes: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """int64 ids of classes that are given by key or by id; EvaluationError names unknown ones."""
    if classes.dtype.kind in "iu":
        known = (classes >= 0) & (classes < len(vocabulary))
        ids = classes.astype(np.int64)
    else:
        keys, places = np.unique(np.array(_texts(classes), dtype=np.str_), return_inverse=True)
        found = np.array([vocabulary.index.get(str(key), -1) for key in keys], np.int64)
        ids = found[places] if len(keys) else np.empty(0, np.int64)
        known = ids >= 0
    if not known.all():
        unknown: dict[Any, None] = dict.fromkeys(classes[~known].tolist())
        shown = ", ".join(repr(_text(key)) for key in list(unknown)[:5])
        raise EvaluationError(
            f"{path} scores {len(unknown):,} classes that are not in the class list of "
            f"{len(vocabulary):,}: {shown}."
        )
    return ids


def _floats(path: str, scores: np.ndarray) -> np.ndarray:
    if scores.dtype not in (np.float32, np.float16):
        raise EvaluationError(
            f"{path}: scores must be float32 or float16. Received: {scores.dtype}."
        )
    return scores


def _texts(values: np.ndarray) -> list[str]:
    return [_text(value) for value in values.tolist()]


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
