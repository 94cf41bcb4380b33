"""Open Images, from the files as they are downloaded.

    --labels       *-human-imagelabels.csv, *-machine-imagelabels.csv; files of boxes will do, too
                   ImageID,Source,LabelName,Confidence[,XMin,...]
    --image_info   ImageID,Subset,OriginalURL,...,OriginalMD5,Thumbnail300KURL[,Rotation]
    --images       a folder or bucket with SUBSET/ID.jpg or ID.jpg, or train_[0-f].tar.gz

Each file says a part of what there is to say of an image: the rows are merged by its id. A human
confidence of 0 is a verified negative; a machine's says nothing, and is left out.
"""

import csv
import functools
import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from pipeline import fetch, rows, storage, tar
from pipeline.records import BadRow, ImageRow
from pipeline.sources import cells, globs, image_info, image_labels, text
from pipeline.sources.image_labels import LabelFile
from pipeline.sources.source import Inventory, Part, SourceError, SourceOptions, stamp_of

_SUBSETS = ("train", "validation", "test")
_SUBSET = re.compile(rf"(?:^|[^a-z])({'|'.join(_SUBSETS)})(?![a-z])")
_SPLIT_COLUMN = "Subset"
_SUFFIX = ".jpg"
_ARCHIVED_BYTES = 300_000  # of an image in the archives, about

# How the images lie.
_BY_SUBSET, _FLAT, _ARCHIVES = "by subset", "flat", "archives"

_EXPECTED = {  # below each flag
    "labels": ",".join(image_labels.COLUMNS),
    "image_info": f"a header with {', '.join(image_info.COLUMNS)}",
}


class _Table(NamedTuple):
    """A file of rows, once it was read."""

    flag: str
    subset: str  # "" where neither its name nor its folder's tells
    digest: str
    num_rows: int
    num_images: int  # with labels, a close estimate
    parts: tuple[Part, ...]


class OpenImages:
    """The source."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options

    def inventory(self) -> Inventory:
        options = self._options
        if options.split_column not in (None, _SPLIT_COLUMN):
            raise SourceError(
                f"--split_column={options.split_column}: the split column of Open Images is "
                f"{_SPLIT_COLUMN}"
            )
        archives = globs.files(options.images, "images") if self._layout == _ARCHIVES else {}
        flags = dict.fromkeys(globs.files(options.labels or "", "labels"), "labels")
        if options.image_info:
            flags |= dict.fromkeys(globs.files(options.image_info, "image_info"), "image_info")
        paths = sorted({*flags, *archives})
        tables = [self._table(paths.index(path), path, flags[path]) for path in flags]
        contents = [f"{table.flag} {table.subset} {table.digest}" for table in tables]
        contents += [f"{posixpath.basename(path)} {archives[path].num_bytes}" for path in archives]
        parts = [part for table in tables for part in table.parts]
        parts += [Part(paths.index(path), path) for path in archives]
        num_bytes = sum(archive.num_bytes for archive in archives.values())
        return Inventory(
            tuple(paths),
            tuple(parts),
            hashlib.sha256("\n".join([self._layout, *sorted(contents)]).encode()).hexdigest(),
            sum(table.num_rows for table in tables) + num_bytes // _ARCHIVED_BYTES,
            _num_images(tables),
            stamp_of(archives) if archives else "",
        )

    def vocabulary(self) -> None:
        """The class list is in files of its own: --classes, --class_names."""

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[rows.Batch]:
        if part.path.lower().endswith(tar.SUFFIXES):
            return rows.batched(_archived(part, unpacked_dir))
        _, columns = _header(part.path)
        if image_labels.is_header(columns):
            return self._label_batches(part, len(columns))
        return rows.batched(image_info.read(part, columns, self._uri))

    def _label_batches(self, part: Part, num_columns: int) -> Iterator[rows.Batch]:
        subset = _subset(part.path)
        file = LabelFile(part.file, num_columns, subset, self._folder(subset))
        first = part.first
        for lines in text.lines(part):
            yield image_labels.to_batch(lines, first, file)
            first += len(lines)

    def _table(self, file: int, path: str, flag: str) -> _Table:
        """Reads a file once; raises SourceError where it is not what its flag says."""
        head, columns = _header(path)
        is_header = image_labels.is_header if flag == "labels" else image_info.is_header
        if not is_header(columns):
            raise SourceError(
                f"{path}:{head.number}: --{flag} has another header. Expected: "
                f"{_EXPECTED[flag]}. Received: {head.text.strip()[:200]}"
            )
        subset = _subset(path)
        first = head.number + 1
        found = text.survey(path, file, head.end, first)
        if flag == "image_info":  # nobody knows where it could be cut: titles have line feeds
            whole = (Part(file, path, head.end, None, first),)
            return _Table(flag, subset, found.digest, found.num_lines, 0, whole)
        if not subset and self._layout == _BY_SUBSET and not self._options.image_info:
            raise SourceError(
                f"{path}: its name has none of {', '.join(_SUBSETS)} in it, so that the folder of "
                "its images is unknown: give --image_info, or rename the file"
            )
        num_images = round(found.num_lines * _share_of_images(found.parts))
        parts = tuple(found.parts)
        return _Table(flag, subset, found.digest, found.num_lines, num_images, parts)

    def _uri(self, subset: str, image_id: str) -> str:
        folder = self._folder(subset)
        return "" if folder is None else f"{folder}{image_id}{_SUFFIX}"

    def _folder(self, subset: str) -> str | None:
        """What stands before the name of an image's file; None where another row knows that."""
        if self._layout == _FLAT:
            return ""
        return f"{subset}/" if self._layout == _BY_SUBSET and subset else None

    @functools.cached_property
    def _layout(self) -> str:  # found once, and pickled with the source
        images = self._options.images
        if any(one.lower().endswith(tar.SUFFIXES) for one in globs.patterns(images)):
            return _ARCHIVES
        if any(_has_images(storage.join(images, subset)) for subset in _SUBSETS):
            return _BY_SUBSET
        if _has_images(images):
            return _FLAT
        folders = ", ".join(f"{subset}/ID{_SUFFIX}" for subset in _SUBSETS)
        raise SourceError(
            f"--images={images}: no images. Expected below it: {folders} or ID{_SUFFIX}; or name "
            "the archives: .../train_*.tar.gz"
        )


def _header(path: str) -> tuple[text.Head, list[str]]:
    head = text.head(path)
    if head is None:
        raise SourceError(f"{path}: the file is empty")
    try:
        return head, next(csv.reader([head.text.strip()]))
    except csv.Error as error:
        raise SourceError(f"{path}:{head.number}: the header line is no CSV: {error}") from error


def _subset(path: str) -> str:
    """What the name of a file, or else of its folder, says."""
    folder, name = posixpath.split(path)
    match = _SUBSET.search(name)
    folder = posixpath.basename(folder)
    return match[1] if match else folder if folder in _SUBSETS else ""


def _has_images(folder: str) -> bool:
    if storage.is_local(folder):
        if not os.path.isdir(folder):
            return False
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(_SUFFIX) for entry in entries)
    from apache_beam.io.filesystems import FileSystems

    pattern = storage.join(folder, f"*{_SUFFIX}")
    return bool(FileSystems.match([pattern], limits=[1])[0].metadata_list)


def _share_of_images(parts: list[Part]) -> float:
    """How many images a label file has for a line of it: those of an image are neighbours."""
    lines = next(text.lines(parts[0]), []) if parts else []
    return len({line.partition(",")[0] for line in lines}) / max(len(lines), 1)


def _num_images(tables: list[_Table]) -> int:
    """Files of one subset mostly speak of the same images."""
    by_subset: dict[str, int] = {}
    for table in tables:
        by_subset[table.subset] = max(by_subset.get(table.subset, 0), table.num_images)
    return sum(by_subset.values())


def _archived(part: Part, unpacked_dir: str) -> Iterator[ImageRow | BadRow]:
    """A row for each image of an archive; its labels are in other rows."""
    subset = _subset(part.path)
    number = 0
    try:
        with tar.Archive(part.path, unpacked_dir) as archive:
            for number, member in enumerate(archive.members(), start=1):
                place = f"{part.file}:{number}"
                uri = fetch.reference(archive.path, member.offset, member.length)
                read = functools.partial(_archived_row, member.name, uri, subset, place)
                yield cells.row_or_bad(read, member.name, place)
    except tar.TarError as error:
        yield cells.bad_row(part.path, str(error), f"{part.file}:{number + 1}")


def _archived_row(name: str, uri: str, subset: str, place: str) -> ImageRow:
    image_id, suffix = posixpath.splitext(posixpath.basename(name))
    if suffix.lower() != _SUFFIX:
        raise ValueError(f"no {_SUFFIX} file")
    return ImageRow(cells.parse_text(image_id, "image id"), uri, (), place, split=subset)
