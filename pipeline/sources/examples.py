"""Files of tf.train.Examples that are alike, as a source: its parts, its digest, its batches."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import statistics
from collections.abc import Iterator
from typing import NamedTuple

from pipeline import compressed, storage
from pipeline.labels import Vocabulary
from pipeline.loss import Usual
from pipeline.rows import Batch, batched
from pipeline.sources.example_rows import Features, Reader
from pipeline.sources.source import Inventory, Part, SourceError, SourceOptions, stamp_of


class RecordFile(NamedTuple):
    """One file of records."""

    path: str  # absolute where local
    stored: storage.File
    num_records: int | None = None  # None: not known before it is read
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Files of records that are alike."""

    files: tuple[RecordFile, ...]
    features: Features
    num_records: int  # a close estimate
    vocabulary: Vocabulary | None = None  # what numbers among the labels mean, where that is known
    fingerprint: str = ""  # of what made them, where that is known

    def inventory(self) -> Inventory:
        """A part a file; raises SourceError where a path cannot be written down."""
        for file in self.files:
            if file.path != file.path.encode(errors="replace").decode():
                raise SourceError(f"{file.path!r}: the name is not UTF-8: rename the file")
        parts = [Part(index, file.path) for index, file in enumerate(self.files)]
        stored = {name: file.stored for name, file in zip(self._names, self.files, strict=True)}
        sizes = sorted((name, file.num_bytes) for name, file in stored.items())
        contents = json.dumps([sizes, self.features, self.fingerprint])
        return Inventory(
            files=tuple(file.path for file in self.files),
            parts=tuple(parts),
            digest=hashlib.sha256(contents.encode()).hexdigest(),
            num_rows=self.num_records,
            num_images=self.num_records,
            stamp="" if self.fingerprint else stamp_of(stored),
        )

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[Batch]:
        """The rows of a file, of which one record at a time is in memory."""
        path, damage = compressed.plain(part.path, unpacked_dir)
        file = self.files[part.file]
        name = self._names[part.file]
        reader = Reader(
            self.features, path, part.file, name, file.split, file.num_records, self._usual
        )
        with storage.open_to_read(path) as stream:
            yield from batched(reader.rows(stream, damage))

    @functools.cached_property
    def _usual(self) -> Usual:
        sizes = [file.stored.num_bytes for file in self.files]
        return Usual(sum(sizes) / self.num_records, statistics.median_high(sizes))

    @functools.cached_property
    def _names(self) -> list[str]:
        """Of the files, below the folder that holds them all: unique, wherever that lies."""
        parts = [file.path.split("/") for file in self.files]
        shared = zip(*(folders for *folders, _ in parts), strict=False)
        depth = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, shared))
        return ["/".join(below[depth:]) for below in parts]


class ExampleSource:
    """A source whose dataset is found once, on the launcher, and travels to the workers."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options

    def find(self) -> Dataset:
        """The dataset; raises SourceError."""
        raise NotImplementedError

    def inventory(self) -> Inventory:
        return self._dataset.inventory()

    def vocabulary(self) -> Vocabulary | None:
        return self._dataset.vocabulary

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[Batch]:
        return self._dataset.batches(part, unpacked_dir)

    @functools.cached_property
    def _dataset(self) -> Dataset:
        return self.find()


def shards(folder: str, names: list[str], lengths: list[int], split: str) -> list[RecordFile]:
    """The shards of a split by their names in the folder; raises SourceError where one is gone."""
    if storage.is_local(folder):  # rows refer to files from everywhere
        folder = os.path.abspath(folder)
    paths = [storage.join(folder, name) for name in names]
    stored: dict[str, storage.File] = {}
    for parent in {path.rpartition("/")[0] for path in paths}:
        found = storage.files(storage.join(parent, "*"))
        stored |= {f"{parent}/{path.rpartition('/')[2]}": file for path, file in found.items()}
    missing = [path for path in paths if path not in stored]
    if missing:
        raise SourceError(
            f"{len(missing)} of {len(paths)} files of split {split!r} are gone, "
            f"the first is {missing[0]}"
        )
    return [
        RecordFile(path, stored[path], length, split)
        for path, length in zip(paths, lengths, strict=True)
    ]
