"""What one pass over images counts, whole or in parts: saved, loaded, and merged to the same bits.

tally = Tally(num_classes, weights, first_image=part.first_image)
for batch in scores.batches(part):
    tally.update(batch)
tally.save("part-0.npz")

whole = Tally.load("part-0.npz")
whole.merge(Tally.load("part-1.npz"))       # in any order
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from eval.average_precision import Accumulator
from eval.scores import Batch

FORMAT_VERSION = 1


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
    """

    def __init__(
        self,
        num_classes: int,
        weights: np.ndarray,
        first_image: int = 0,
        with_verified: bool = False,
    ):
        self.all = Accumulator(num_classes, weights, first_image=first_image)
        self.verified = (
            Accumulator(num_classes, weights, first_image=first_image) if with_verified else None
        )
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
        if (self.verified is None) != (other.verified is None):
            raise ValueError("Only tallies that both count verified pairs, or neither, can merge.")
        self.all.merge(other.all)
        if self.verified is not None and other.verified is not None:
            self.verified.merge(other.verified)
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
        for name, accumulator in (("all", self.all), ("verified", self.verified)):
            if accumulator is not None:
                state = accumulator.state()
                arrays |= {f"{name}/{key}": array for key, array in state.items()}
        temporary = f"{path}.tmp-{os.getpid()}"
        with open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> Tally:
        """The tally in a file; raises TallyError, or OSError."""
        try:
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            version = int(arrays.pop("format_version"))
            if version != FORMAT_VERSION:
                raise TallyError(
                    f"{path} is a tally of format version {version}, and this code reads version "
                    f"{FORMAT_VERSION}."
                )
            return cls._of(arrays)
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            if isinstance(error, TallyError):
                raise
            raise TallyError(f"{path} holds no tally of images: {error}.") from error

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray]) -> Tally:
        weights = arrays["weights"]
        with_verified = any(name.startswith("verified/") for name in arrays)
        tally = cls(len(weights), weights, with_verified=with_verified)
        for name, accumulator in (("all", tally.all), ("verified", tally.verified)):
            if accumulator is not None:
                prefix = f"{name}/"
                accumulator.restore(
                    {key[len(prefix) :]: a for key, a in arrays.items() if key.startswith(prefix)}
                )
        ids = _from_bytes(arrays["ids/utf8"])
        ends = np.cumsum(arrays["ids/lengths"])
        tally._ids = [
            (int(start), ids[end - length : end])
            for start, length, end in zip(
                arrays["ids/starts"], arrays["ids/lengths"], ends, strict=True
            )
        ]
        tally._next_image = tally.all.next_image
        return tally


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
