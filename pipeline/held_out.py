"""The contents of evaluation splits, by which they are kept out of training."""

import csv
import hashlib
import io
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline import metadata, publish, rows, storage
from pipeline.fetch import content_key
from pipeline.sharding import Content, ShardError


class HeldOut:
    """All contents of some evaluation splits: three hashes and numbers, 30 bytes an image."""

    def __init__(self, output: str, splits: Iterable[str]) -> None:
        """Reads what the splits have left; raises ShardError where that is not whole."""
        self._splits = tuple(splits)
        found = [
            (hashes, np.full(len(hashes), number, np.uint16))
            for number, split in enumerate(self._splits)
            for hashes in _read_hashes(output, split)
        ]
        hashes = np.concatenate([np.empty(0, np.uint64), *(hashes for hashes, _ in found)])
        numbers = np.concatenate([np.empty(0, np.uint16), *(numbers for _, numbers in found)])
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._numbers = hashes[order], numbers[order]

    def split_of(self, data: bytes, checksum: str) -> str | None:
        """The evaluation split that holds an image of such bytes, or of such a checksum.

        A hash has 64 bits: of 3e8 images with a checksum of their own, against 6e6 held out, one is
        taken for another with a probability of 3e-4. For bytes two hashes must agree.
        """
        if not self._splits:
            return None
        split = self._find(checksum) if checksum else None
        if split is None and self._find(content_key(data)) is not None:
            split = self._find(hashlib.sha256(data).hexdigest())
        return split

    def _find(self, key: str) -> str | None:
        (hashed,) = rows.hashes([key.encode()]).order
        place = int(np.searchsorted(self._hashes, hashed))
        if place == len(self._hashes) or self._hashes[place] != hashed:
            return None
        return self._splits[self._numbers[place]]


def _read_hashes(output: str, split: str) -> Iterator[np.ndarray]:
    """uint64 [n], batch by batch: the hashes of every content key, sha256 and checksum."""
    path = storage.join(output, metadata.contents_file(split))
    marker = publish.read_marker(output, split)
    num_contents = 0
    try:
        with storage.open_to_read(path) as stream:
            lines = csv.reader(io.TextIOWrapper(stream, "utf-8", newline=""))
            if next(lines, None) != list(Content._fields):
                raise ValueError("its first line names other columns")
            while batch := list(itertools.islice(lines, rows.BATCH_ROWS)):
                num_contents += len(batch)
                keys = (key for line in batch for key in Content(*line)[1:] if key)
                yield rows.hashes(key.encode() for key in keys).order
        if marker is None or num_contents != marker["num_examples"]:
            raise ValueError(f"{num_contents} contents")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ShardError(
            f"{path}, by which {split!r} is kept out of training, is missing or damaged ({error}): "
            "delete it and start that split's command again, then this one"
        ) from error
