"""Parquet files as batches of columns; images inside them are unpacked, once, to be referred to.

A column of images is paths, or bytes, or a struct of `bytes` and `path` as Hugging Face has it.
"""

import contextlib
import hashlib
import json
import posixpath
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.records import BadRow, ImageRow
from pipeline.rows import BATCH_ROWS, Batch, batched
from pipeline.sources import cells
from pipeline.sources.columnar import Table, to_batch
from pipeline.sources.columns import Columns, find_columns
from pipeline.sources.source import Part, SourceError, SourceOptions
from pipeline.sources.text import Survey

PART_ROWS = 200_000
_PART_BYTES = 256 << 20  # of the columns, as encoded
_BATCH_BYTES = 32 << 20
_BLOCK_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20  # of a column while it is read: row groups are never whole in memory
_ID = "\0id"  # the table's key for ids that are made up


def survey(path: str, file: int, options: SourceOptions) -> Survey:
    """Reads the whole file once; raises SourceError where it is damaged or lacks columns."""
    digest = hashlib.sha256()
    with storage.open_to_read(path) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    with _opened(path) as opened:
        columns = find_columns(path, _names(path, opened), options)
        if options.long_form and _bytes_type(opened.schema_arrow.field(columns.image).type):
            raise SourceError(f"{path}: --long_form needs paths, not images, in {columns.image!r}")
        sizes = [opened.metadata.row_group(group) for group in range(opened.num_row_groups)]
        counts = [size.num_rows for size in sizes]
        if min(counts, default=0) < 0 or sum(counts) != opened.metadata.num_rows:
            raise SourceError(
                f"{path}: a damaged Parquet file: {opened.metadata.num_rows} rows, and in its row "
                f"groups {sum(counts)}"
            )
        parts = list(_parts(path, file, [(size.num_rows, size.total_byte_size) for size in sizes]))
    return Survey(digest.hexdigest(), sum(counts), parts)


def _parts(path: str, file: int, groups: list[tuple[int, int]]) -> Iterator[Part]:
    start, first, num_rows, num_bytes = 0, 1, 0, 0
    for group, (group_rows, group_bytes) in enumerate(groups):
        num_rows += group_rows
        num_bytes += group_bytes
        is_last = group == len(groups) - 1
        if is_last or num_rows >= PART_ROWS or num_bytes >= _PART_BYTES:
            yield Part(file, path, start, group + 1, first)
            start, first, num_rows, num_bytes = group + 1, first + num_rows, 0, 0


def batches(part: Part, options: SourceOptions, unpacked_dir: str) -> Iterator[Batch]:
    """The rows of a part; those of a row group that cannot be read are bad, each of them."""
    with _opened(part.path) as opened:
        columns = find_columns(part.path, _names(part.path, opened), options)
        image_type = opened.schema_arrow.field(columns.image).type
        first = part.first
        for index in range(part.start, part.end or opened.num_row_groups):
            group = _RowGroup(opened, index, columns.names())
            tables = group.tables()
            read_as = columns
            if _bytes_type(image_type) is not None:
                read_as = columns._replace(image_id=columns.image_id or _ID)
                tables = _unpacked(tables, part, index, first, columns, unpacked_dir)
            done = 0
            for table in tables:
                yield _batch(table, read_as, options.label_delimiter, part.file, first + done)
                done += len(table[columns.image])
            lost = range(first + done, first + group.num_rows)
            yield from batched(
                cells.lost_rows(posixpath.basename(part.path), group.damage, part.file, lost)
            )
            first += group.num_rows


class _RowGroup:
    """A row group, as far as it can be read."""

    def __init__(self, opened: pq.ParquetFile, index: int, names: list[str]) -> None:
        self._opened = opened
        self._index = index
        self._names = names
        self.num_rows = opened.metadata.row_group(index).num_rows
        self.damage = f"row group {index} has fewer rows than it says"

    def tables(self) -> Iterator[Table]:
        try:
            found = self._opened.iter_batches(
                self._batch_rows(), [self._index], columns=self._names, use_threads=False
            )
            for batch in found:
                yield {name: _storage(batch.column(name)) for name in self._names}
        except _DAMAGE as error:
            storage.raise_if_not_damage(error)
            self.damage = f"row group {self._index} cannot be read: {error}"

    def _batch_rows(self) -> int:
        """So many that a batch's cells stay in memory, also where they are images."""
        # Of all columns: to ask for a single one ends the process where the file is damaged there.
        num_bytes = self._opened.metadata.row_group(self._index).total_byte_size
        fitting = _BATCH_BYTES * self.num_rows // max(num_bytes, 1)
        return min(max(fitting, 1), BATCH_ROWS)


def _batch(table: Table, columns: Columns, delimiter: str, file: int, first: int) -> Batch:
    def read_row(index: int) -> ImageRow | BadRow:
        place = f"{file}:{first + index}"
        found: dict[str, Any] = {}

        def read() -> ImageRow:
            found.update({name: column[index].as_py() for name, column in table.items()})
            return cells.image_row(found, columns, delimiter, place)

        row = cells.row_or_bad(read, "", place)
        if isinstance(row, ImageRow):
            return row
        text = json.dumps(found, ensure_ascii=False, default=str) if found else f"row {place}"
        return cells.bad_row(text, row.detail, place)

    return to_batch(table, columns, delimiter, file, first, read_row)


def _unpacked(
    tables: Iterator[Table], part: Part, group: int, first: int, columns: Columns, unpacked_dir: str
) -> Iterator[Table]:
    """The tables with references to images for images, which are written unless they are there."""
    from pipeline.fetch import reference  # with the codecs, which --help has no need of

    size = storage.size(part.path)
    what = f"{part.path}\0{size}\0{group}\0{columns.image}"
    digest = hashlib.blake2b(what.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    path = storage.join(unpacked_dir, f"{digest}.images")
    name = posixpath.basename(part.path)
    offset = 0
    with contextlib.ExitStack() as stack:
        stream = None
        if not storage.exists(path):
            stream = stack.enter_context(storage.write_atomically(path))
        for table in tables:
            uris: list[str | None] = []
            ids: list[str | None] = []
            for image in _images(table[columns.image]):
                uri = image.path
                if image.data is not None:
                    uri = reference(path, offset, len(image.data))
                    offset += len(image.data)
                    if stream is not None:
                        stream.write(image.data)
                uris.append(uri)
                ids.append(image.path or f"{name}:{first}")
                first += 1
            made = {columns.image: pa.array(uris, pa.string()), _ID: pa.array(ids, pa.string())}
            yield table | made


class _Image(NamedTuple):
    data: pa.Buffer | None
    path: str | None


def _images(column: pa.Array) -> Iterator[_Image]:
    data, paths = column, pa.nulls(len(column))
    if pa.types.is_struct(column.type):
        children = dict(zip(column.type.names, column.flatten(), strict=True))
        data, paths = _storage(children["bytes"]), children.get("path", paths)
    for value, path in zip(data, paths, strict=True):
        try:
            text = path.as_py()
        except UnicodeDecodeError:
            text = None
        yield _Image(value.as_buffer() if value.is_valid else None, text)


def _bytes_type(type: pa.DataType) -> pa.DataType | None:
    """The type of the bytes in a column of images; None where there are none."""
    if isinstance(type, pa.ExtensionType):
        type = type.storage_type
    if pa.types.is_struct(type):
        index = type.get_field_index("bytes")
        return None if index < 0 else _bytes_type(type.field(index).type)
    return type if pa.types.is_binary(type) or pa.types.is_large_binary(type) else None


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _names(path: str, opened: pq.ParquetFile) -> list[str]:
    try:
        return opened.schema_arrow.names
    except _DAMAGE as error:
        storage.raise_if_not_damage(error)
        raise SourceError(f"{path}: a damaged Parquet file: {error}") from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    """The file; raises SourceError where it is none."""
    with storage.open_to_read(path) as stream:
        try:
            opened = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES)
        except _DAMAGE as error:
            storage.raise_if_not_damage(error)
            raise SourceError(f"{path}: no Parquet file, or a damaged one: {error}") from error
        yield opened


_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
