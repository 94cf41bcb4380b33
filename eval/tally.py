"""What one pass over images counts, whole or in parts: saved, loaded, and merged to the same bits.

tally = Tally(num_classes, weights, first_image=part.first_image)
for batch in scores.batches(part):
    tally.update(batch)
tally.save("part-0.npz")

whole = Tally.load("part-0.npz")
whole.merge(Tally.load("part-1.npz"))       # in any order
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from eval.average_precision import Accumulator
from eval.retrieval import truth_of
from eval.scores import Batch
from eval.uncut import UncutRanking

FORMAT_VERSION = 1
_ALL_SCORES = "uncut/all_scores"


class TallyError(ValueError):
    """A file that holds no tally of this version; the message names it."""


class Tally:
    """The images that were seen, and what their scores came to.

    Args:
        num_classes: columns of every batch of scores.
        weights: float64 [num_classes], the class weights.
        first_image: number of the first image in the whole evaluation; parts are runs of images
            that follow each other.
        with_verified: also counts as if only verified pairs of image and class existed: an image's
            labels and verified negatives. All others are unknown, and masked.
        with_uncut: also ranks without a cut, which keeps every score in a temporary file.
    """

    def __init__(
        self,
        num_classes: int,
        weights: np.ndarray,
        first_image: int = 0,
        with_verified: bool = False,
        with_uncut: bool = False,
    ):
        self.all = Accumulator(num_classes, weights, first_image=first_image)
        self.verified = (
            Accumulator(num_classes, weights, first_image=first_image) if with_verified else None
        )
        self.uncut = UncutRanking(num_classes) if with_uncut else None
        self._weights = np.asarray(weights, np.float64)
        self._ids: list[tuple[int, list[str]]] = []  # (number of the first, ids of a run)
        self._next_image = first_image

    def update(self, batch: Batch) -> np.ndarray:
        """Adds images; returns their unweighted average precision, NaN for one without labels.

        Raises NotANumberError or ValueError, as `Accumulator.update` does.
        """
        image_ap = self.all.update(batch.scores, batch.labels)
        if self.verified is not None:
            self.verified.update(_only_verified(batch), batch.labels)
        if self.uncut is not None:
            self.uncut.add(batch.scores, truth_of(batch.labels, self.all.num_classes))
        self._ids.append((self._next_image, list(batch.image_ids)))
        self._next_image += len(batch.image_ids)
        return image_ap

    @property
    def num_images(self) -> int:
        return self.all.num_images

    def image_ids(self) -> list[str]:
        """The ids of the images, in order of their numbers, which then must begin with 0."""
        return [image_id for _, ids in sorted(self._ids) for image_id in ids]

    def merge(self, other: Tally) -> None:
        """Adds a tally of other images of the same evaluation; ValueError where it is another."""
        for part in ("verified", "uncut"):
            if (getattr(self, part) is None) != (getattr(other, part) is None):
                raise ValueError(f"Only one of the two tallies counts what is {part}.")
        self.all.merge(other.all)
        if self.verified is not None and other.verified is not None:
            self.verified.merge(other.verified)
        if self.uncut is not None and other.uncut is not None:
            self.uncut.merge(other.uncut)
        self._ids += other._ids

    def save(self, path: str | Path) -> None:
        """Writes everything into one .npz file, whole or not at all."""
        starts = np.array([start for start, _ in self._ids], np.int64)
        lengths = np.array([len(ids) for _, ids in self._ids], np.int64)
        arrays = {
            "format_version": np.array(FORMAT_VERSION),
            "weights": self._weights,
            "ids/starts": starts,
            "ids/lengths": lengths,
            "ids/utf8": _to_bytes([image_id for _, ids in self._ids for image_id in ids]),
        }
        for name, part in self._parts().items():
            arrays |= {f"{name}/{key}": array for key, array in part.state().items()}
        temporary = f"{path}.tmp-{os.getpid()}"
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> Tally:
        """The tally in a file; raises TallyError, or OSError."""
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                version = int(file["format_version"])
                if version != FORMAT_VERSION:
                    raise TallyError(
                        f"{path} is a tally of format version {version}, and this code reads "
                        f"version {FORMAT_VERSION}."
                    )
                return cls._of(file)
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            if isinstance(error, TallyError):
                raise
            raise TallyError(f"{path} holds no tally of images: {error}.") from error

    @classmethod
    def _of(cls, file: Any) -> Tally:
        weights = file["weights"]
        kinds = {name.split("/")[0] for name in file.files}
        tally = cls(
            len(weights), weights, with_verified="verified" in kinds, with_uncut="uncut" in kinds
        )
        for name, part in tally._parts().items():
            # All scores without a cut may be larger than memory: copied from file to file.
            keys = [key for key in file.files if key.startswith(f"{name}/") and key != _ALL_SCORES]
            state = {key.removeprefix(f"{name}/"): file[key] for key in keys}
            if name == "uncut":
                with file.zip.open(f"{_ALL_SCORES}.npy") as all_scores:
                    part.restore(state, all_scores)
            else:
                part.restore(state)
        ids = _from_bytes(file["ids/utf8"])
        ends = np.cumsum(file["ids/lengths"])
        tally._ids = [
            (int(start), ids[end - length : end])
            for start, length, end in zip(
                file["ids/starts"], file["ids/lengths"], ends, strict=True
            )
        ]
        tally._next_image = tally.all.next_image
        return tally

    def _parts(self) -> dict[str, Any]:
        parts = {"all": self.all, "verified": self.verified, "uncut": self.uncut}
        return {name: part for name, part in parts.items() if part is not None}


def _only_verified(batch: Batch) -> np.ndarray:
    """The scores with minus infinity in place of every unknown pair's."""
    scores = np.full_like(batch.scores, -np.inf)
    for row, (labels, negatives) in enumerate(zip(batch.labels, batch.negatives, strict=True)):
        known = np.concatenate([labels, negatives])
        scores[row, known] = batch.scores[row, known]
    return scores


def _to_bytes(ids: list[str]) -> np.ndarray:
    """Ids as one array of bytes, a zero byte after each: no id has one."""
    return np.frombuffer("".join(f"{image_id}\0" for image_id in ids).encode(), np.uint8)


def _from_bytes(data: np.ndarray) -> list[str]:
    return data.tobytes().decode().split("\0")[:-1]
