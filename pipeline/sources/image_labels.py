"""Lines of Open Images' label files to batches, without a Python object a row.

Lines among which anything is out of the ordinary are read one by one instead: the rows are the
same.
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from pipeline import rows
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import cells

COLUMNS = ("ImageID", "Source", "LabelName", "Confidence")

_MISSPELT = (*COLUMNS[:3], "Condidence")  # in copies of TFDS

_TEXT = pa.large_string()
_DICTIONARY = pa.dictionary(pa.int32(), _TEXT)
_TYPES = dict(zip(COLUMNS, (_TEXT, _DICTIONARY, _DICTIONARY, _DICTIONARY), strict=True))
_MAX_VALUES = 1000  # of Source and of Confidence: real files have up to 3 and 11
_NOTHING = pa.scalar("", _TEXT)


def is_header(columns: Sequence[str]) -> bool:
    return tuple(columns[: len(COLUMNS)]) in (COLUMNS, _MISSPELT)


class LabelFile(NamedTuple):
    """What is the same for all rows of a file."""

    number: int  # index in Inventory.files
    num_columns: int  # COLUMNS, and what else the header has
    subset: str  # "" where the file does not tell
    uri_prefix: str | None  # what stands before ID.jpg; None: another row has the URI

    def uri(self, image_id: str) -> str:
        return "" if self.uri_prefix is None else f"{self.uri_prefix}{image_id}.jpg"


def to_batch(lines: Sequence[str], first: int, file: LabelFile) -> rows.Batch:
    """The rows of lines below the header; the first of them is line `first` of the file."""
    batch = _vectorised(lines, first, file)
    return rows.Batch.of(list(_by_line(lines, first, file))) if batch is None else batch


def _by_line(lines: Sequence[str], first: int, file: LabelFile) -> Iterator[ImageRow | BadRow]:
    for number, line in enumerate(lines, start=first):
        if line.strip():
            yield _row(line.removesuffix("\r"), f"{file.number}:{number}", file)


def _row(line: str, place: str, file: LabelFile) -> ImageRow | BadRow:
    def read() -> ImageRow:
        try:
            row = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise ValueError(f"no CSV: {error}") from error
        if len(row) != file.num_columns:
            raise ValueError(f"{len(row)} cells below a header of {file.num_columns}")
        image_id, source, label, confidence = row[: len(COLUMNS)]
        image_id = cells.parse_text(image_id, "image id")
        annotation = _annotation(cells.parse_text(label, "label"), confidence, source)
        annotations = (annotation,) if annotation else ()
        return ImageRow(image_id, file.uri(image_id), annotations, place, split=file.subset)

    return cells.row_or_bad(read, line, place)


def _annotation(label: str, confidence: str, source: str) -> Annotation | None:
    """None where a machine says that it is sure of nothing; raises ValueError."""
    if cells.is_empty(confidence):
        raise ValueError("the confidence is empty")
    said = Annotation(
        label, cells.parse_confidence(confidence), cells.parse_text(source, "label source")
    )
    return said if said.confidence or said.source != cells.MACHINE else None


def _vectorised(lines: Sequence[str], first: int, file: LabelFile) -> rows.Batch | None:
    """None where a line may not be plain."""
    table = _table(lines, file.num_columns)
    if table is None:
        return None
    ids, sources, labels, confidences = (table[name].combine_chunks() for name in COLUMNS)
    said = _suffixes(sources, confidences)
    if said is None or not all(map(_is_plain, labels.dictionary.to_pylist())):
        return None
    annotations = _joined(labels.dictionary_decode(), said)
    annotations = pc.if_else(pc.equal(said, _NOTHING), _NOTHING, annotations)
    numbers = pa.array(np.arange(first, first + len(ids))).cast(_TEXT)
    uris = [] if file.uri_prefix is None else [file.uri_prefix, ids, ".jpg"]
    rest = f"{rows.CELL * 3}{file.subset}" if file.subset else ""
    place = f"{rows.CELL}{file.number}:"
    encoded = _joined(
        ids, rows.CELL, *uris, rows.CELL, annotations, place, numbers, rest + rows.LINE
    )
    keys = ids.cast(pa.large_binary()).to_pylist()
    return rows.Batch(
        keys, [file.subset] * len(keys) if file.subset else None, encoded.cast(pa.large_binary())
    )


def _table(lines: Sequence[str], num_columns: int) -> pa.Table | None:
    """The columns of plain lines, all of as many cells; None where they are not that."""
    block = "\n".join(lines).encode("utf-8", "surrogateescape").replace(b"\r\n", b"\n")
    block = block.removesuffix(b"\r")
    num_blanks = np.count_nonzero(np.frombuffer(block, np.uint8) <= ord(" "))
    if num_blanks != len(lines) - 1 or b'"' in block:
        return None
    names = [*COLUMNS, *map(str, range(len(COLUMNS), num_columns))]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block),
            arrow_csv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names),
            arrow_csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
            arrow_csv.ConvertOptions(column_types=_TYPES, include_columns=COLUMNS),
        )
    except pa.ArrowInvalid:
        return None
    is_whole = table.num_rows == len(lines) and table["ImageID"].num_chunks == 1
    return table if is_whole and _are_ids(table["ImageID"].chunk(0)) else None


def _are_ids(ids: pa.Array) -> bool:
    """Whether none is empty; nor begins or ends with a blank that is not ASCII's."""
    return pc.min(pc.binary_length(ids)).as_py() > 0 and pc.all(pc.string_is_ascii(ids)).as_py()


def _is_plain(text: str) -> bool:
    try:
        return cells.parse_text(text, "") == text
    except ValueError:
        return False


def _suffixes(sources: pa.DictionaryArray, confidences: pa.DictionaryArray) -> pa.Array | None:
    """What follows the label of each row in its line; "" where the row says nothing of it."""
    pairs = itertools.product(sources.dictionary.to_pylist(), confidences.dictionary.to_pylist())
    if max(len(sources.dictionary), len(confidences.dictionary)) > _MAX_VALUES:
        return None
    if not all(map(_is_plain, sources.dictionary.to_pylist())):
        return None
    try:
        said = [_annotation("", confidence, source) for source, confidence in pairs]
    except ValueError:
        return None
    suffixes = pa.array(
        [f"{rows.PART}{one.confidence!r}{rows.PART}{one.source}" if one else "" for one in said],
        _TEXT,
    )
    num_confidences = len(confidences.dictionary)
    indices = sources.indices.to_numpy() * num_confidences + confidences.indices.to_numpy()
    return suffixes.take(pa.array(indices))


def _joined(*pieces: pa.Array | str) -> pa.LargeStringArray:
    """The pieces of each row, one behind the other."""
    arrays = (pa.scalar(piece, _TEXT) if isinstance(piece, str) else piece for piece in pieces)
    return pc.binary_join_element_wise(*arrays, _NOTHING)
