"""Columns of cells to a Batch, without a Python object a row.

What is plain here is a row that `cells.image_row` would read, and reads the same. All others, the
bad ones among them, become null on the way, and are read one by one.
"""

from collections.abc import Callable
from itertools import compress, repeat
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import rows
from pipeline.records import CONTROL_CHARACTERS, BadRow, ImageRow
from pipeline.sources import cells
from pipeline.sources.columns import Columns

_TEXT = pa.large_string()
_CELL, _ANNOTATION, _PART, _LINE, _NOTHING = (
    pa.scalar(text, _TEXT) for text in (rows.CELL, rows.ANNOTATION, rows.PART, rows.LINE, "")
)
_NULL = pa.scalar(None, _TEXT)

Table = dict[str, pa.Array]  # by name of the column
ReadRow = Callable[[int], ImageRow | BadRow | None]


def to_batch(
    table: Table,
    columns: Columns,
    delimiter: str,
    file: int,
    first: int,
    read_row: ReadRow,
) -> rows.Batch:
    """The batch of cells by column; row i is number `first + i` of the file.

    `read_row` gives row i where it is not plain, or None where there is none.
    """
    uris = _texts(table[columns.image])
    ids = uris if columns.image_id is None else _texts(table[columns.image_id])
    annotations = _annotations(table, columns, delimiter)
    numbers = pa.array(np.arange(first, first + len(uris))).cast(_TEXT)
    places = _join(pa.scalar(f"{file}:", _TEXT), numbers)
    splits = _mapped(table, columns.split, lambda cell: cells.parse_optional_text(cell, "split"))
    rest = _rest(table, columns, splits)
    lines = _join(ids, _CELL, uris, _CELL, annotations, _CELL, places, rest, _LINE)
    is_split = columns.split is not None and pc.any(pc.not_equal(splits, "")).as_py()
    batch = rows.Batch(
        _to_list(ids.cast(pa.large_binary())),
        _to_list(splits) if is_split else None,
        lines.cast(pa.large_binary()),
    )
    return _with_odd_rows(batch, read_row) if lines.null_count else batch


def _with_odd_rows(batch: rows.Batch, read_row: ReadRow) -> rows.Batch:
    """The batch with the rows whose lines are null."""
    is_odd = batch.lines.is_null()
    indices = np.flatnonzero(is_odd.to_numpy(zero_copy_only=False)).tolist()
    found = {index: read_row(index) for index in indices}
    odd = rows.Batch.of([row or BadRow("", "", "") for row in found.values()])
    keys = batch.keys.copy()
    splits = batch.splits or [""] * len(keys)
    for index, key, split in zip(indices, odd.keys, odd.splits or repeat(""), strict=False):
        keys[index], splits[index] = key, split
    lines = pc.replace_with_mask(batch.lines, is_odd, odd.lines)
    if None in found.values():
        is_row = [found.get(index, True) is not None for index in range(len(keys))]
        keys, splits = list(compress(keys, is_row)), list(compress(splits, is_row))
        lines = lines.filter(pa.array(is_row))
    return rows.Batch(keys, splits if any(splits) else None, lines)


def _texts(column: pa.Array) -> pa.LargeStringArray:
    """As cells.parse_text reads them: null where it raises."""
    texts = _as_text(column)
    if _has_edges(texts):
        texts = pc.utf8_trim_whitespace(texts)
    is_odd = pc.equal(pc.binary_length(texts), 0)
    if _holds_control(texts):
        is_odd = pc.or_(is_odd, pc.match_substring_regex(texts, CONTROL_CHARACTERS.pattern))
    return pc.if_else(is_odd, _NULL, texts) if pc.any(is_odd).as_py() else texts


def _as_text(column: pa.Array) -> pa.LargeStringArray:
    """Text and integers as text; all null where the column is anything else."""
    column = _decoded(column)
    if not (_is_text(column.type) or pa.types.is_integer(column.type)):
        return pa.nulls(len(column), _TEXT)
    texts = column.cast(_TEXT)
    try:
        texts.validate(full=True)  # that it is UTF-8
    except pa.ArrowInvalid:
        return pa.nulls(len(column), _TEXT)
    return texts


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_text(type: pa.DataType) -> bool:
    types = pa.types
    return types.is_string(type) or types.is_large_string(type) or types.is_string_view(type)


def _is_list(type: pa.DataType) -> bool:
    return pa.types.is_list(type) or pa.types.is_large_list(type)


def _bytes_of(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [num_texts + 1] offsets, uint8 data)."""
    if not len(texts):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offsets, data = texts.buffers()
    found = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return found, np.frombuffer(data or b"", np.uint8)


def _has_edges(texts: pa.LargeStringArray) -> bool:
    """Whether a text may begin or end with white space."""
    offsets, data = _bytes_of(texts)
    is_full = offsets[1:] > offsets[:-1]
    edges = (data[offsets[:-1][is_full]], data[offsets[1:][is_full] - 1])
    return any(bool(((edge <= 0x20) | (edge >= 0x80)).any()) for edge in edges)


def _holds_control(texts: pa.LargeStringArray) -> bool:
    offsets, data = _bytes_of(texts)
    return bool((data[offsets[0] : offsets[-1]] < 0x20).any())


def _annotations(table: Table, columns: Columns, delimiter: str) -> pa.LargeStringArray:
    """The annotations as a line has them; null where they are not plain."""
    suffixes = _suffixes(table, columns, delimiter)
    annotations = _joined_labels(table[columns.labels], suffixes, delimiter)
    return pc.if_else(pc.is_null(suffixes), _NULL, annotations)


def _joined_labels(
    column: pa.Array, suffixes: pa.Array | pa.Scalar, delimiter: str
) -> pa.LargeStringArray:
    if _is_list(column.type):
        return _join_lists(column, suffixes)
    texts = _as_text(column)
    if texts.null_count != column.null_count:
        return texts
    texts = texts.fill_null("")
    if pc.any(pc.match_substring(texts, delimiter)).as_py():
        joined = _join_lists(pc.split_pattern(texts, delimiter), suffixes)
    else:
        joined = _join(_texts(texts), suffixes)
    joined = pc.if_else(pc.starts_with(texts, "["), _NULL, joined)  # it may be JSON
    return pc.if_else(pc.equal(texts, _NOTHING), _NOTHING, joined)


def _join_lists(lists: pa.Array, suffixes: pa.Array | pa.Scalar) -> pa.LargeStringArray:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    items = _texts(lists.flatten())
    if isinstance(suffixes, pa.Array):
        suffixes = suffixes.take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
    is_last = np.zeros(len(items), bool)
    is_last[offsets[1:][lengths > 0] - 1] = True
    marks = pc.if_else(pa.array(is_last), _NOTHING, _ANNOTATION)
    items = _join(items, suffixes, marks)
    is_null = np.concatenate([[0], np.cumsum(items.is_null().to_numpy(zero_copy_only=False))])
    is_odd = is_null[offsets[1:]] > is_null[offsets[:-1]]
    byte_offsets, data = _bytes_of(items)
    joined = pa.LargeStringArray.from_buffers(
        len(lists), pa.py_buffer(byte_offsets[offsets].tobytes()), pa.py_buffer(data)
    )
    return pc.if_else(pa.array(is_odd), _NULL, joined) if is_odd.any() else joined


def _suffixes(table: Table, columns: Columns, delimiter: str) -> pa.Array | pa.Scalar:
    """What follows every label of a row: confidence and source, where there are such columns."""
    if columns.confidence is None and columns.label_source is None:
        return _NOTHING

    def scalar(cell: Any) -> Any:
        if isinstance(cell, str) and (delimiter in cell or cell.startswith("[")):
            raise ValueError("a list")
        return cell

    confidences = _mapped(
        table, columns.confidence, lambda cell: repr(cells.parse_confidence(scalar(cell)))
    )
    sources = _mapped(
        table,
        columns.label_source,
        lambda cell: cells.parse_optional_text(scalar(cell), "label source"),
    )
    with_confidence = _join(_PART, confidences)
    without_source = pc.if_else(pc.equal(confidences, "1.0"), _NOTHING, with_confidence)
    suffixes = pc.if_else(
        pc.equal(sources, ""), without_source, _join(with_confidence, _PART, sources)
    )
    says_nothing = pc.and_(pc.equal(confidences, "0.0"), pc.equal(sources, cells.MACHINE))
    return pc.if_else(says_nothing, _NULL, suffixes)


def _rest(table: Table, columns: Columns, splits: pa.Array) -> pa.Array | pa.Scalar:
    """The cells that a line only has where one of them is not empty."""
    if columns.checksum is None and columns.rotation is None and columns.split is None:
        return _NOTHING
    checksums = _mapped(table, columns.checksum, cells.parse_checksum)
    rotations = _mapped(table, columns.rotation, lambda cell: str(cells.parse_rotation(cell) or ""))
    found = _join(_CELL, checksums, _CELL, rotations, _CELL, splits)
    return pc.if_else(pc.equal(found, rows.CELL * 3), _NOTHING, found)


def _mapped(table: Table, name: str | None, parse: Callable[[Any], str]) -> pa.LargeStringArray:
    """What `parse` gives for each cell, called once a value; null where it raises ValueError."""

    def parsed(cell: Any) -> str | None:
        try:
            return parse(cell)
        except ValueError:
            return None

    if name is None:
        num_rows = len(next(iter(table.values())))
        return pa.repeat(pa.scalar(parse(None), _TEXT), num_rows)
    try:
        encoded = _decoded(table[name]).dictionary_encode()
        values = encoded.dictionary.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):  # lists, objects, what is not UTF-8
        return pa.nulls(len(table[name]), _TEXT)
    results = pa.array([*map(parsed, values), parsed(None)], _TEXT)
    return results.take(encoded.indices.fill_null(len(values)))


def _join(*texts: pa.Array | pa.Scalar) -> pa.LargeStringArray:
    return pc.binary_join_element_wise(*texts, _NOTHING)  # the last one is what stands between


def _to_list(values: pa.Array) -> list[Any]:
    return values.to_numpy(zero_copy_only=False).tolist()
