"""What decides the bytes of a split besides its inputs; plain values, without the codecs.

An option of a run that changes a byte stands in its recipe, and so in the fingerprint.
"""

import dataclasses
from typing import Any

import numpy as np

FASTEVAL = "fasteval"
_TRAINING = "train"
_HASHES = 1 << 64


@dataclasses.dataclass(frozen=True)
class ImageRecipe:
    """What happens to an image; see pipeline.images."""

    shorter_side: int | None = None  # pixels it is brought down to; None keeps every size
    crop: int | None = None  # the same, and then the centre square of so many pixels
    upscale: bool = False  # smaller images are enlarged to the target
    untouched: bool = False  # JPEG and PNG files keep their bytes
    jpeg_quality: int = 90  # 1 to 100, of images that are encoded


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which images a split takes, by the split hash of their ids and by what their rows say."""

    lowest: int = 0  # of the split hash, which is below 2^64
    end: int = _HASHES
    cell: str | None = None  # of the split column
    takes_strays: bool = True  # what has no cell of its own: bad rows, images with several
    drawn_end: int = 0  # eligible images with a split hash below are drawn for evaluation
    is_drawn: bool = False  # takes what is drawn, and nothing else

    @property
    def share(self) -> float:
        """Of all images, those in the range of the hash."""
        return (self.end - self.lowest) / _HASHES

    def may_take(self, hashes: np.ndarray) -> np.ndarray:
        """bool [n]: False where the split takes no image of such a split hash (uint64 [n])."""
        if self.is_drawn:
            return hashes < np.uint64(self.drawn_end)
        taken = np.ones(len(hashes), bool)
        if self.lowest > 0:
            taken &= hashes >= np.uint64(self.lowest)
        if self.end < _HASHES:
            taken &= hashes < np.uint64(self.end)
        return taken

    def takes(self, is_drawn: bool, cell: str) -> bool:
        """Whether the split takes an image that it may take, now that all its rows are known."""
        if self.is_drawn or is_drawn:
            return self.is_drawn and is_drawn
        is_stray = not cell or "," in cell
        return self.cell is None or cell == self.cell or (is_stray and self.takes_strays)


def shares(names_and_shares: tuple[tuple[str, float], ...]) -> dict[str, Selection]:
    """Splits by ranges of the split hash, one after the other."""
    found = {}
    start = total = 0.0
    for name, share in names_and_shares:
        total += share
        end = _HASHES if total > 1 - 1e-9 else int(total * _HASHES)
        found[name] = Selection(lowest=int(start * _HASHES), end=end)
        start = total
    return found


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything but the inputs that decides the bytes of a split."""

    split: str
    selection: Selection
    num_shards: int
    images: ImageRecipe
    min_confidence: float
    trusted_sources: tuple[str, ...] | None
    hierarchy: str  # sha256 of the file, or ""
    min_labels: int
    deduplicate: str  # one of options.DEDUPLICATE
    held_out: tuple[tuple[str, str], ...]  # (evaluation split, its fingerprint), kept out of this
    format_version: int
    salt: str
    codecs: tuple[tuple[str, str], ...]  # (distribution, version)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        found = dataclasses.asdict(self)
        return {**found, "codecs": dict(self.codecs), "held_out": dict(self.held_out)}


def is_training(split: str) -> bool:
    """Whether a split is for training: `train`, `train_2020`. Others are for evaluation."""
    return split == _TRAINING or split.startswith(_TRAINING + "_")
