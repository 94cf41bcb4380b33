"""Lines of CSV, TSV and JSON as rows: a chunk of them as a table, or each by itself."""

import csv
import json
from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from pipeline.dead_letter import BAD_ROW
from pipeline.records import BadRow, ImageRow
from pipeline.sources import cells
from pipeline.sources.columnar import Table
from pipeline.sources.columns import (
    Columns,
    columns_of_object,
    find_columns,
    find_columns_of_objects,
)
from pipeline.sources.source import SourceError, SourceOptions
from pipeline.sources.text import MAX_LINE_CHARACTERS, Head, has_surrogates

_BULK_LINES = 1024  # read at once, unless one of them is no row
_MAX_KINDS = 1000  # of JSON objects, by their keys, whose columns are remembered


class Lines(Protocol):
    """How the lines of one file are read; made from its head, wherever a part of it is read."""

    def table(self, lines: Sequence[str]) -> tuple[Table, Columns] | None:
        """The lines' cells by column, as `columnar.to_batch` takes them; None: read each line."""
        ...

    def row(self, line: str, place: str) -> ImageRow | BadRow | None:
        """The row of a line; None where it has none to give."""
        ...


class DelimitedLines:
    """Lines of cells with a separator between, quoted with `"` where needed, below a header."""

    def __init__(self, path: str, head: Head, separator: str, options: SourceOptions) -> None:
        self._separator = separator
        self._delimiter = options.label_delimiter
        place = f"{path}:{head.number}"
        try:
            self._header = [name.strip() for name in self._cells(head.text)]
        except ValueError as error:
            raise SourceError(f"{place}: the header line is {error}") from error
        self.columns = find_columns(place, self._header, options)
        self._has_dead_letters = {"reason", "place"} <= set(self._header)

    def table(self, lines: Sequence[str]) -> tuple[Table, Columns] | None:
        if len(self._header) == 1 or len(max(lines, key=len)) > MAX_LINE_CHARACTERS:
            return None
        if has_surrogates("".join(lines)):
            lines = ["" if has_surrogates(line) else line for line in lines]
        chunks = (
            self._all_cells(lines[start : start + _BULK_LINES])
            for start in range(0, len(lines), _BULK_LINES)
        )
        texts = [cell for chunk in chunks for cell in chunk]
        table = {}
        for name in self.columns.names():
            column = texts[self._header.index(name) :: len(self._header)]
            table[name] = pa.array(column, pa.large_string())
        return table, self.columns

    def row(self, line: str, place: str) -> ImageRow | BadRow | None:
        text = line.strip()
        if not text or (self._has_dead_letters and self._is_bad_row_again(line)):
            return None
        return cells.row_or_bad(lambda: self._row(line, place), text, place)

    def _is_bad_row_again(self, line: str) -> bool:
        """Whether the line is a dead letter that names no image to try again."""
        found = dict(zip(self._header, self._cells_or_empty(line), strict=True))
        return found["reason"] == BAD_ROW and not found[self.columns.image].strip()

    def _row(self, line: str, place: str) -> ImageRow:
        found = self._cells(_bounded(line))
        if len(found) != len(self._header):
            raise ValueError(f"{len(found)} cells below a header of {len(self._header)}")
        by_name = dict(zip(self._header, found, strict=True))
        return cells.image_row(by_name, self.columns, self._delimiter, place)

    def _reader(self, lines: Sequence[str]) -> Any:
        return csv.reader(lines, strict=True, skipinitialspace=True, delimiter=self._separator)

    def _cells(self, line: str) -> list[str]:
        try:
            return next(self._reader([line]), [])
        except csv.Error as error:
            raise ValueError(f"no CSV: {error}") from error

    def _all_cells(self, lines: Sequence[str]) -> list[str]:
        """As many cells for each line; they are empty where it is not one row."""
        width = len(self._header)
        try:  # no list of rows: the garbage collector would go through it again and again
            found = [cell for row in self._reader(lines) if len(row) == width for cell in row]
        except csv.Error:
            found = []
        if len(found) == len(lines) * width:
            return found
        return [cell for line in lines for cell in self._cells_or_empty(line)]

    def _cells_or_empty(self, line: str) -> list[str]:
        width = len(self._header)
        try:
            found = self._cells(line)
        except ValueError:
            found = []
        return found if len(found) == width else [""] * width


class JsonLines:
    """Lines that are JSON objects, each with the keys that it likes.

    `following` are lines from the head's on, for the columns that the first object has not.
    """

    def __init__(
        self, path: str, head: Head, following: Sequence[str], options: SourceOptions
    ) -> None:
        place = f"{path}:{head.number}"
        try:
            first = json.loads(head.text)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{place}: the first line is no JSON: {error}") from error
        if not isinstance(first, dict):
            received = head.text.strip()[:80]
            raise SourceError(f"{place}: a line is a JSON object. Received: {received}")
        self._options = options
        kinds = dict.fromkeys([tuple(first), *map(tuple, map(_object_or_empty, following))])
        self.columns = find_columns_of_objects(place, list(kinds), options)
        self._kinds: dict[tuple[str, ...], Columns] = {}

    def table(self, lines: Sequence[str]) -> tuple[Table, Columns] | None:
        objects = [_object_or_empty(line) for line in lines]
        try:
            kinds = {self._columns(value) for value in objects if value}
            columns = kinds.pop()
            if kinds:
                return None
            named = {columns.labels, self._options.confidence_column or columns.labels}
            for value in objects:
                if not named <= value.keys():  # what has no image is read by itself
                    value[columns.image] = None
            table = {
                name: pa.array([value.get(name) for value in objects]) for name in columns.names()
            }
        except (KeyError, ValueError, TypeError, OverflowError, pa.ArrowException):
            return None  # columns of several types, which Arrow does not have
        return table, columns

    def row(self, line: str, place: str) -> ImageRow | BadRow | None:
        text = line.strip()
        if not text:
            return None
        return cells.row_or_bad(lambda: self._row(text, place), text, place)

    def _row(self, text: str, place: str) -> ImageRow:
        try:
            found = json.loads(_bounded(text))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError("a line is a JSON object")
        columns = self._columns(found)
        row = cells.image_row(found, columns, self._options.label_delimiter, place)
        named = self._options.confidence_column
        if (
            named and named not in found and row.annotations
        ):  # 1 would be a guess, and 0 may be meant
            raise ValueError(f"no {named!r} in the row, which --confidence_column names")
        return row

    def _columns(self, found: dict[str, Any]) -> Columns:
        names = tuple(found)
        columns = self._kinds.get(names)
        if columns is None:
            columns = columns_of_object(self.columns, names, self._options)
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            self._kinds[names] = columns
        return columns


def _object_or_empty(line: str) -> dict[str, Any]:
    try:
        found = json.loads(_bounded(line))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _bounded(line: str) -> str:
    if len(line) > MAX_LINE_CHARACTERS:
        raise ValueError(f"a line of more than {MAX_LINE_CHARACTERS} characters")
    return line
