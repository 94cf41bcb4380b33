"""Label files with an image a row, or a label of an image a row: CSV, TSV, JSON lines, Parquet.

    image_path,labels              {"image_path": "cats/1.jpg", "labels": ["cat", "animal"]}
    cats/1.jpg,cat|animal          {"image_path": "dogs/7.jpg", "labels": "dog|animal"}

CSV and TSV have a header line, cells quoted with `"` where needed, UTF-8 with or without a byte
order mark, LF or CRLF; no cell runs over several lines. Text may be compressed (.csv.gz). Parquet
may hold paths or the images themselves. Where there is no id, it is the image's path. Every row
keeps its file and line; what cannot be read becomes a BadRow. `cells` says what a cell may hold.

A file of dead letters is a label file, too (`reason` and `place` in its header): of its rows those
are passed over that were bad rows and so name no image that could be tried again.
"""

import hashlib
import os
from collections.abc import Iterator
from functools import partial

from pipeline import storage
from pipeline.records import BadRow, ImageRow
from pipeline.rows import Batch
from pipeline.sources import globs, text
from pipeline.sources.cells import format_labels
from pipeline.sources.columnar import to_batch
from pipeline.sources.lines import DelimitedLines, JsonLines, Lines
from pipeline.sources.source import Inventory, Part, SourceError, SourceOptions

__all__ = ["Manifest", "format_labels"]

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".ndjson")
_PARQUET = ".parquet"
_SUFFIXES = (*_SEPARATORS, *_JSON, _PARQUET)
_READ_AS = (  # the options that decide what the rows are
    "image_column", "labels_column", "id_column", "confidence_column", "label_source_column",
    "checksum_column", "rotation_column", "split_column", "label_delimiter",
)  # fmt: skip


class Manifest:
    """The source of label files."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options

    def inventory(self) -> Inventory:
        """Every file read once, for its digest, its lines and where to cut it."""
        files = _label_files(self._options.labels)
        digests, parts, num_rows, num_images = [], [], 0, 0
        for index, path in enumerate(files):
            survey = self._survey(path, index)
            digests.append(f"{_suffix(path)} {survey.digest}")
            parts += survey.parts
            num_rows += survey.num_lines
            num_images += self._num_images(survey)
        read_as = [f"{name}={getattr(self._options, name)!r}" for name in _READ_AS]
        digest = hashlib.sha256("\n".join([*read_as, *sorted(digests)]).encode())
        return Inventory(tuple(files), tuple(parts), digest.hexdigest(), num_rows, num_images)

    def vocabulary(self) -> None:
        """Label files list no classes."""

    def batches(self, part: Part, unpacked_dir: str) -> Iterator[Batch]:
        """The rows of a part."""
        if _suffix(part.path) == _PARQUET:
            from pipeline.sources import parquet

            return parquet.batches(part, self._options, unpacked_dir)
        return self._text_batches(part)

    def _survey(self, path: str, index: int) -> text.Survey:
        if _suffix(path) == _PARQUET:
            from pipeline.sources import parquet

            return parquet.survey(path, index, self._options)
        head = text.head(path)
        if head is None:
            return text.survey(path, index, 0, 1)._replace(num_lines=0, parts=[])
        self._lines(path, head)  # raises what is wrong with it
        if _suffix(path) in _JSON:
            return text.survey(path, index, head.start, head.number)
        return text.survey(path, index, head.end, head.number + 1)

    def _num_images(self, survey: text.Survey) -> int:
        """As many as rows, or as the first rows' images make likely; these stand together."""
        if not self._options.long_form or not survey.parts:
            return survey.num_lines
        sample = next(self.batches(survey.parts[0], ""), None)
        if sample is None or not sample.keys:
            return survey.num_lines
        return -(-survey.num_lines * len(set(sample.keys)) // len(sample.keys))

    def _lines(self, path: str, head: text.Head) -> Lines:
        suffix = _suffix(path)
        if suffix in _JSON:
            following = text.first_lines(path, head.start)
            return JsonLines(path, head, following, self._options)
        return DelimitedLines(path, head, _SEPARATORS[suffix], self._options)

    def _text_batches(self, part: Part) -> Iterator[Batch]:
        head = text.head(part.path)
        if head is None:
            return
        reader = self._lines(part.path, head)
        first = part.first
        for chunk in text.lines(part):
            read_row = partial(_read_row, reader, chunk, part.file, first)
            found = reader.table(chunk)
            if found is None:
                read = map(read_row, range(len(chunk)))
                yield Batch.of([row for row in read if row is not None])
            else:
                delimiter = self._options.label_delimiter
                yield to_batch(*found, delimiter, part.file, first, read_row)
            first += len(chunk)


def _read_row(
    reader: Lines, chunk: list[str], file: int, first: int, index: int
) -> ImageRow | BadRow | None:
    return reader.row(chunk[index], f"{file}:{first + index}")


def _label_files(labels: str | None) -> list[str]:
    """The files that --labels means, sorted, each once; raises SourceError."""
    if not labels:
        raise SourceError("--labels must name the label files: a path or a glob")
    found = set()
    for pattern in [labels] if storage.exists(labels) else globs.patterns(labels):
        pattern = storage.without_file_scheme(pattern)
        paths = [pattern] if storage.exists(pattern) else storage.match(pattern)
        if not paths:
            raise SourceError(f"--labels={pattern}: no such file")
        found.update(paths)
    for path in found:
        if storage.is_local(path) and os.path.isdir(path):
            raise SourceError(f"--labels={path} is a folder: name its files, like {path}/*.csv")
        if _suffix(path) not in _SUFFIXES:
            raise SourceError(f"{path}: a label file's name ends with one of {_accepted()}")
    return sorted(found)


def _accepted() -> str:
    return f"{', '.join(_SUFFIXES)}; text also with {text.COMPRESSED}"


def _suffix(path: str) -> str:
    """The format that the name tells, without compression."""
    name = path.lower()
    if name.endswith(text.COMPRESSED) and not name.endswith(_PARQUET + text.COMPRESSED):
        name = name.removesuffix(text.COMPRESSED)
    return os.path.splitext(name)[1]
