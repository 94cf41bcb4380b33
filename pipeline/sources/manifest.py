"""A label file with an image a line, CSV or JSON lines.

    image_path,labels              {"image_path": "cats/1.jpg", "labels": ["cat", "animal"]}
    cats/1.jpg,cat|animal          {"image_path": "dogs/7.jpg", "labels": "dog|animal"}

CSV is comma-separated below a header line, cells quoted with `"` where needed, UTF-8 with or
without a byte order mark, LF or CRLF. No cell runs over several lines, so that a stray quote
costs one row. A cell of labels that is a JSON list is read as one. Where there is no id, it is the
image's path. Every row keeps its file and line; what cannot be read becomes a BadRow.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.records import BadRow, ImageRef

# What a column is called where no flag names it; the first that is there is taken.
IMAGE_COLUMNS = ("image_path", "image", "path", "file_name", "filename", "file", "uri")
LABELS_COLUMNS = ("labels", "label", "classes", "class", "tags")
ID_COLUMNS = ("image_id", "imageid")

_JSON_SUFFIXES = (".jsonl", ".ndjson")
SUFFIXES = (".csv", *_JSON_SUFFIXES)


class ManifestError(ValueError):
    """A label file that cannot be read at all; says which and why."""


class Format(NamedTuple):
    """How rows are to be read; a column that is None is looked for among the usual names."""

    image_column: str | None
    labels_column: str | None
    id_column: str | None
    label_delimiter: str


class Columns(NamedTuple):
    """The columns of one file, by name."""

    image: str
    labels: str
    image_id: str | None  # None: the image's path is its id


def find_columns(path: str, format: Format) -> Columns | None:
    """The columns that a label file's first line offers; None without a line.

    Raises ManifestError.
    """
    if not path.lower().endswith(SUFFIXES):
        raise ManifestError(f"{path}: a label file's name ends with one of {', '.join(SUFFIXES)}")
    with _open(path) as lines:
        first = next((line for line in lines if line.strip()), None)
    if first is None:
        return None
    if "\0" in first or _printable(first) != first:
        raise ManifestError(f"{path}: the first line is not UTF-8 text: is the file compressed?")
    if first.endswith("\r"):
        raise ManifestError(f"{path}: lines end with CR alone: write them with LF or CRLF")
    names = _json_keys(path, first) if _is_json(path) else _csv_header(path, first)
    image = _find(path, names, "image", format.image_column, IMAGE_COLUMNS)
    labels = _find(path, names, "labels", format.labels_column, LABELS_COLUMNS)
    has_id = format.id_column or _usual_id_column(names)
    image_id = _find(path, names, "id", format.id_column, ID_COLUMNS) if has_id else None
    return Columns(image, labels, image_id)


def read(path: str, format: Format) -> Iterator[ImageRef | BadRow]:
    """The rows of a label file."""
    columns = find_columns(path, format)
    if columns is None:
        return
    is_json = _is_json(path)
    with _open(path) as lines:
        for row in _json_rows(path, lines) if is_json else _csv_rows(path, lines):
            if isinstance(row, BadRow):
                yield row
                continue
            if is_json:  # an object has an id or has none, whatever the first one had
                image_id = format.id_column or _usual_id_column(row.cells)
                columns = columns._replace(image_id=image_id)
            yield _image_ref(row, columns, format)


class _Row(NamedTuple):
    cells: dict[str, Any]
    text: str
    source: str


def _image_ref(row: _Row, columns: Columns, format: Format) -> ImageRef | BadRow:
    try:
        uri = _text(row.cells.get(columns.image), "image")
        image_id = uri
        if columns.image_id is not None:
            image_id = _text(row.cells.get(columns.image_id), "image id")
        if columns.labels not in row.cells:
            raise ValueError(f"no {columns.labels!r} in the row")
        labels = _labels(row.cells[columns.labels], format.label_delimiter)
        "".join((uri, image_id, *labels)).encode()
    except UnicodeEncodeError:
        return _bad_row(row.text, "not UTF-8", row.source)
    except (ValueError, RecursionError) as error:
        return _bad_row(row.text, str(error), row.source)
    return ImageRef(image_id, uri, labels, row.source)


def _bad_row(text: str, detail: str, source: str) -> BadRow:
    return BadRow(_printable(text), _printable(detail), source)


def _printable(text: str) -> str:
    """The text in characters that UTF-8 has: a byte that was none shows as `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(cell: Any, what: str) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool):
        cell = str(cell)
    if not isinstance(cell, str):
        raise ValueError(f"no {what}" if cell is None else f"the {what} is no text: {cell!r}")
    if not cell.strip():
        raise ValueError(f"the {what} is empty")
    return cell.strip()


def _labels(cell: Any, delimiter: str) -> tuple[str, ...]:
    """The labels of a row in the order of the cell, each once; none where the cell is empty."""
    if cell is None:
        return ()
    if isinstance(cell, str) and cell.startswith('["') and cell.endswith('"]'):
        cell = json.loads(cell)
    if isinstance(cell, str):
        cell = [label for label in cell.split(delimiter) if label.strip()]
    if not isinstance(cell, list):
        raise ValueError(f"labels are a list, or text with {delimiter!r} between: {cell!r}")
    return tuple(dict.fromkeys(_text(label, "label") for label in cell))


def format_labels(labels: Iterable[str], delimiter: str) -> str:
    """The cell that `read` gives the same labels back from."""
    labels = list(labels)
    if any(delimiter in label for label in labels):
        return json.dumps(labels, ensure_ascii=False)
    return delimiter.join(labels)


def _open(path: str) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 come through as lone surrogates, for their own row to be refused.
    return io.TextIOWrapper(
        storage.open_to_read(path), encoding="utf-8-sig", errors="surrogateescape", newline=""
    )


def _is_json(path: str) -> bool:
    return path.lower().endswith(_JSON_SUFFIXES)


def _csv_header(path: str, line: str) -> list[str]:
    try:
        header = [name.strip() for name in _csv_cells(line)]
    except csv.Error as error:
        raise ManifestError(f"{path}:1: the header line is no CSV: {error}") from error
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise ManifestError(f"{path}:1: the header names a column twice: {', '.join(repeated)}")
    return header


def _json_keys(path: str, line: str) -> list[str]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: the first line is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise ManifestError(f"{path}: a line is a JSON object. Received: {line.strip()[:80]}")
    return list(row)


def _find(
    path: str, names: list[str], what: str, wanted: str | None, usual: tuple[str, ...]
) -> str:
    """The name of a column as the file spells it."""
    found = ", ".join(names)
    if wanted is not None:
        if wanted in names:
            return wanted
        raise ManifestError(
            f"{path}: no column {wanted!r} (--{what}_column). Columns found: {found}"
        )
    for name in usual:
        alike = [spelled for spelled in names if spelled.lower() == name]
        if len(alike) > 1:
            raise ManifestError(
                f"{path}: columns {' and '.join(alike)} are alike: name one with --{what}_column"
            )
        if alike:
            return alike[0]
    raise ManifestError(
        f"{path}: no column for the {what}: name it with --{what}_column. Columns found: {found}; "
        f"usual names: {', '.join(usual)}"
    )


def _usual_id_column(names: Iterable[str]) -> str | None:
    return next((name for name in names if name.lower() in ID_COLUMNS), None)


def _csv_cells(line: str) -> list[str]:
    return next(csv.reader([line], strict=True, skipinitialspace=True))


def _numbered(path: str, lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(line, stripped line, file:line) of every line that is not blank."""
    for line_number, line in enumerate(lines, start=1):
        text = line.strip()
        if text:
            yield line, text, f"{path}:{line_number}"


def _csv_rows(path: str, lines: Iterable[str]) -> Iterator[_Row | BadRow]:
    header: list[str] | None = None
    for line, text, source in _numbered(path, lines):
        try:
            cells = _csv_cells(line)
        except csv.Error as error:
            yield _bad_row(text, f"no CSV: {error}", source)
            continue
        if header is None:
            header = [name.strip() for name in cells]
        elif len(cells) != len(header):
            detail = f"{len(cells)} cells below a header of {len(header)}"
            yield _bad_row(text, detail, source)
        else:
            yield _Row(dict(zip(header, cells, strict=True)), text, source)


def _json_rows(path: str, lines: Iterable[str]) -> Iterator[_Row | BadRow]:
    for _, text, source in _numbered(path, lines):
        try:
            cells = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield _bad_row(text, f"no JSON: {error}", source)
            continue
        if isinstance(cells, dict):
            yield _Row(cells, text, source)
        else:
            yield _bad_row(text, "a line is a JSON object", source)
