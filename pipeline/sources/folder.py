"""A folder for each class, as ImageNet comes: `n01440764/n01440764_10026.JPEG`.

The class is the first folder below the root, however deep the image lies in it; the image's id is
its path below the root. Every file is taken for an image, except those whose name, or whose
folder's, begins with a dot. A class may be a link to a folder; links to folders further down are
not followed: they could lead in circles.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline import rows, storage
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import cells
from pipeline.sources.source import Inventory, Part, SourceError, SourceOptions


class _File(NamedTuple):
    path: str  # below the root, with / between
    size: int  # bytes; -1: no regular file


class _Top(NamedTuple):
    """What lies in the root."""

    files: tuple[_File, ...]
    classes: tuple[str, ...]  # sorted


class Folder:
    """The source. Its file 0 is the root, the others are the classes' folders."""

    def __init__(self, options: SourceOptions) -> None:
        images = options.images
        self._root = os.path.abspath(images) if storage.is_local(images) else images.rstrip("/")
        self._split_column = options.split_column

    def inventory(self) -> Inventory:
        if self._split_column is not None:
            raise SourceError(
                f"--split_column={self._split_column}: a folder has no split column: use --split "
                "or --splits"
            )
        if storage.is_local(self._root) and not os.path.isdir(self._root):
            raise SourceError(f"--images={self._root}: no such folder")
        folders = ("", *self._top.classes)
        digest = hashlib.sha256()
        counts = []
        for number in range(len(folders)):
            files = self._files(number)
            counts.append(len(files))
            for path, size in files:
                digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
        num_images = sum(counts[1:])
        if not num_images:
            raise SourceError(
                f"--images={self._root}: no images. Expected below it: CLASS/IMAGE. Received: "
                f"{counts[0]} files that are in no folder, {len(counts) - 1} folders without a file"
            )
        paths = (self._root, *(storage.join(self._root, label) for label in self._top.classes))
        parts = tuple(Part(first, paths[first], first, end) for first, end in _groups(counts))
        return Inventory(paths, parts, digest.hexdigest(), sum(counts), num_images)

    def vocabulary(self) -> None:
        """None of its own: it is built from the folders, whose ancestors a hierarchy may add."""

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[rows.Batch]:
        return rows.batched(self._rows(part))

    def _rows(self, part: Part) -> Iterator[ImageRow | BadRow]:
        for folder in range(part.start, part.end or part.start):
            for number, file in enumerate(self._files(folder), start=1):
                place = f"{folder}:{number}"
                read = functools.partial(self._row, file, folder, place)
                yield cells.row_or_bad(read, file.path, place)

    def _row(self, file: _File, folder: int, place: str) -> ImageRow:
        if not folder:
            raise ValueError("not in a folder that names its class")
        if file.size < 0:
            raise ValueError("no regular file")
        label = cells.parse_text(self._top.classes[folder - 1], "class")
        if cells.parse_text(file.path, "path") != file.path:
            raise ValueError("the path begins or ends with a blank")
        return ImageRow(file.path, file.path, (Annotation(label),), place)

    @functools.cached_property
    def _top(self) -> _Top:  # found once, and pickled with the source
        found = _local(self._root, "") if storage.is_local(self._root) else _remote(self._root, "")
        files = tuple(sorted(file for file in found if "/" not in file.path))
        classes = {file.path.split("/", 1)[0] for file in found if "/" in file.path}
        return _Top(files, tuple(sorted(classes)))

    def _files(self, folder: int) -> Sequence[_File]:
        """The files of a folder and of those in it, sorted."""
        if not folder:
            return self._top.files
        label = self._top.classes[folder - 1]
        found = _local if storage.is_local(self._root) else _remote
        return sorted(found(self._root, label))


def _local(root: str, folder: str) -> list[_File]:
    """Files below a class's folder; of the root itself: its files, and its folders as `NAME/`."""
    found = []
    folders = [folder]
    while folders:
        below = folders.pop()
        with os.scandir(os.path.join(root, below)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = f"{below}/{entry.name}" if below else entry.name
                if not folder and entry.is_dir():
                    found.append(_File(f"{path}/", 0))
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                else:
                    found.append(_File(path, entry.stat().st_size if entry.is_file() else -1))
    return found


def _remote(root: str, folder: str) -> list[_File]:
    """Files below a folder of an object store."""
    below = storage.join(root, folder) if folder else root
    pattern = re.sub(r"[*?[]", "?", below) + "/**"  # patterns cannot quote what they give meaning
    return [
        _File(path[len(root) + 1 :], size)
        for path, size in storage.sizes(pattern).items()
        if path.startswith(f"{below}/") and "/." not in path[len(root) :]
    ]


def _groups(counts: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges of folders that hold files enough for a batch, or are a larger one alone."""
    first = 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or sum(counts[first : end + 1]) > rows.BATCH_ROWS:
            if any(counts[first:end]):
                yield first, end
            first = end
