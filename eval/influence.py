"""The file of each image's influence on the headline: what a paired comparison needs of a run."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np


class InfluenceError(ValueError):
    """A file that holds no influences; the message names it."""


@dataclass(frozen=True)
class Influence:
    """Of every image of one evaluation, in the same order."""

    image_ids: tuple[str, ...]
    weighted: np.ndarray  # float64, on the headline; see intervals.influence
    unweighted: np.ndarray  # float64, on its twin in which all classes weigh the same

    def to_bytes(self) -> bytes:
        """An .npz file without pickle: weighted, unweighted, and ids as UTF-8 parted by lines."""
        buffer = io.BytesIO()
        text = "\n".join(self.image_ids).encode()
        np.savez_compressed(
            buffer,
            image_ids=np.frombuffer(text, np.uint8),
            weighted=self.weighted,
            unweighted=self.unweighted,
        )
        return buffer.getvalue()

    @classmethod
    def read(cls, path: str | Path) -> Influence:
        """What `to_bytes` gave; raises InfluenceError, or OSError where there is no such file."""
        try:
            with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as file:
                ids = tuple(file["image_ids"].tobytes().decode().split("\n"))
                found = cls(ids, file["weighted"], file["unweighted"])
        except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            raise InfluenceError(f"{path} holds no influences of images: {error}.") from error
        if not len(ids) == len(found.weighted) == len(found.unweighted):
            raise InfluenceError(f"{path} is damaged: its arrays differ in length.")
        return found
