"""What every source has in common: how it is named in options, cut into parts, and read.

A source is found once, on the launcher (`inventory`), and read in parts, anywhere (`batches`). It
yields references: images that lie inside another file are named PATH#OFFSET+LENGTH, and what has
no place to refer to (a compressed archive, a column of bytes) is first unpacked, once, into
`unpacked_dir`. So every source takes the same road, and pixels never travel.
"""

import dataclasses
import hashlib
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Protocol

from pipeline.labels import Vocabulary
from pipeline.rows import Batch
from pipeline.storage import File


class SourceError(ValueError):
    """An input that cannot be read at all; says which, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Where the rows are, and how they are to be read; a column of None is looked for."""

    source: str  # name of the reader, a key of pipeline.sources.SOURCES
    images: str  # what relative image paths stand below; or the folder, archives or dataset itself
    labels: str | None = None  # label files: a path or glob, several with commas between
    image_info: str | None = None  # Open Images' image files: checksum, rotation, subset
    source_split: str | None = None  # of a TFDS dataset or one of ours: the split to read
    image_column: str | None = None
    labels_column: str | None = None
    id_column: str | None = None
    confidence_column: str | None = None
    label_source_column: str | None = None
    checksum_column: str | None = None
    rotation_column: str | None = None
    split_column: str | None = None
    label_delimiter: str = "|"
    long_form: bool = False  # a row is one label of an image, not all of them


@dataclasses.dataclass(frozen=True)
class Part:
    """A piece of the input, which one worker reads from its start to its end."""

    file: int  # index in Inventory.files
    path: str
    start: int = 0  # what these count is the source's own: bytes, row groups, ...
    end: int | None = None  # None: to the end of the file
    first: int = 1  # line or record that the part begins with, counted from 1


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What a source consists of."""

    files: tuple[str, ...]  # sorted; an ImageRow's place begins with an index into it
    parts: tuple[Part, ...]
    digest: str  # hex; the same for the same contents, wherever they lie
    num_rows: int  # lines or records, a close estimate
    num_images: int  # a close estimate where rows are not images
    stamp: str = ""  # hex; another one when files were written whose rows the digest does not cover


def stamp_of(files: Mapping[str, File]) -> str:
    """Inventory.stamp of files by path: their names and when they were written."""
    times = sorted((posixpath.basename(path), file.time_written) for path, file in files.items())
    return hashlib.sha256(json.dumps(times).encode()).hexdigest()


class Source(Protocol):
    """A reader; made from SourceOptions on the launcher, and pickled to the workers."""

    def inventory(self) -> Inventory:
        """What there is to read; raises SourceError, or OSError."""
        ...

    def vocabulary(self) -> Vocabulary | None:
        """The class list that the source itself has, in its order; None where it has none."""
        ...

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[Batch]:
        """The rows of a part: every row is in a batch, readable or not."""
        ...
