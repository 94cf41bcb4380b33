"""What the cells of one row say: labels, confidences, checksum, rotation.

A cell is text, as CSV has it, or any value that JSON and Parquet have. Labels are a list, or text
with the delimiter between them. Where confidence and source are of single labels, they are in
columns of their own, one value for all labels or a list as long as theirs; or in the labels' cell:

    ["cat", {"label": "dog", "confidence": 0, "source": "verification"}]

which is also what the dead-letter file has for labels that are not plain.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.records import CONTROL_CHARACTERS, Annotation, BadRow, ImageRow
from pipeline.sources.columns import Columns

MACHINE = "machine"  # the source whose confidence of 0 says nothing
_LONGEST_TEXT = 500  # characters of a bad row that are kept
_HEX = {32: "md5", 64: "sha256"}  # characters of a checksum
_BASE64 = {24: "md5", 44: "sha256"}
_ANNOTATION_KEYS = frozenset(Annotation._fields)


def image_row(cells: Mapping[str, Any], columns: Columns, delimiter: str, place: str) -> ImageRow:
    """The row of the cells, by column; raises ValueError."""

    def cell(name: str | None) -> Any:
        return None if name is None else cells.get(name)

    uri = parse_text(cell(columns.image), "image")
    image_id = uri
    if columns.image_id is not None:
        image_id = parse_text(cell(columns.image_id), "image id")
    if columns.labels not in cells:
        raise ValueError(f"no {columns.labels!r} in the row")
    return ImageRow(
        image_id,
        uri,
        parse_annotations(
            cells[columns.labels], cell(columns.confidence), cell(columns.label_source), delimiter
        ),
        place,
        parse_checksum(cell(columns.checksum)),
        parse_rotation(cell(columns.rotation)),
        parse_optional_text(cell(columns.split), "split"),
    )


def row_or_bad(read: Callable[[], ImageRow], text: str, place: str) -> ImageRow | BadRow:
    """What `read` gives, or the BadRow that says why it gives nothing."""
    try:
        return read()
    except UnicodeError:
        return bad_row(text, "not UTF-8", place)
    except (ValueError, OverflowError, RecursionError) as error:
        return bad_row(text, str(error), place)


def bad_row(text: str, detail: str, place: str) -> BadRow:
    return BadRow(_printable(text), _printable(detail), place)


def lost_rows(name: str, detail: str, file: int, numbers: range) -> Iterator[BadRow]:
    """A bad row for each row of a file that is lost, so that all of them count."""
    for number in numbers:
        yield bad_row(f"{name}:{number}", detail, f"{file}:{number}")


def _printable(text: str) -> str:
    """One line, not too long, of what UTF-8 has: a byte that was none shows as `\\udcff`."""
    line = " ".join(text[:_LONGEST_TEXT].split())
    return line.encode("utf-8", "backslashreplace").decode()


def parse_text(cell: Any, what: str) -> str:
    if isinstance(cell, int) and not isinstance(cell, bool):
        cell = str(cell)
    if not isinstance(cell, str):
        raise ValueError(f"no {what}" if cell is None else f"the {what} is no text: {cell!r}")
    cell = cell.strip()
    if not cell:
        raise ValueError(f"the {what} is empty")
    if not cell.isprintable():
        cell.encode()  # raises UnicodeError at a lone surrogate
        if CONTROL_CHARACTERS.search(cell):
            raise ValueError(f"the {what} holds a control character: {cell!r}")
    return cell


def parse_optional_text(cell: Any, what: str) -> str:
    return "" if is_empty(cell) else parse_text(cell, what)


def is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def parse_annotations(
    labels: Any, confidences: Any, sources: Any, delimiter: str
) -> tuple[Annotation, ...]:
    """What the row says of its labels, in the order of the cell; none where the cell is empty.

    A confidence of 0 is a verified negative, but from `machine`: then the label is left out.
    """
    items = _parse_labels(labels, delimiter)
    if is_empty(confidences) and is_empty(sources):
        found = [_annotation(item) for item in items]
    else:
        aligned = [
            _parse_aligned(cell, len(items), delimiter, what)
            for cell, what in ((confidences, "confidences"), (sources, "label sources"))
        ]
        found = [_annotation(*cells) for cells in zip(items, *aligned, strict=True)]
    return tuple(
        annotation for annotation in found if annotation.confidence or annotation.source != MACHINE
    )


def _annotation(item: Any, confidence: Any = None, source: Any = None) -> Annotation:
    if isinstance(item, dict):
        if not item.keys() <= _ANNOTATION_KEYS:
            keys = ", ".join(Annotation._fields)
            raise ValueError(f"an object among labels has only {keys}: {item!r}")
        confidence = confidence if item.get("confidence") is None else item["confidence"]
        source = source if item.get("source") is None else item["source"]
        item = item.get("label")
    label = parse_text(item, "label")
    if confidence is None and source is None:
        return Annotation(label)
    return Annotation(
        label, parse_confidence(confidence), parse_optional_text(source, "label source")
    )


def _parse_labels(cell: Any, delimiter: str) -> list[Any]:
    if cell is None:
        return []
    if isinstance(cell, str):
        if _looks_like_json(cell):
            cell = json.loads(cell)
        else:
            cell = [label for label in cell.split(delimiter) if label.strip()]
    elif isinstance(cell, int) and not isinstance(cell, bool):
        cell = [cell]
    if not isinstance(cell, list):
        raise ValueError(f"labels are a list, or text with {delimiter!r} between: {cell!r}")
    return cell


def _looks_like_json(cell: str) -> bool:
    """Whether it is a list of texts or objects; a label may well be called `[1]`."""
    return cell.startswith(('["', "[{")) and cell.endswith(('"]', "}]"))


def _parse_aligned(cell: Any, count: int, delimiter: str, what: str) -> list[Any]:
    """A value for each of `count` labels."""
    if isinstance(cell, str):
        if cell.startswith("[") and cell.endswith("]"):
            cell = json.loads(cell)
        elif delimiter in cell:
            cell = cell.split(delimiter)
    if not isinstance(cell, list):
        return [cell] * count
    if len(cell) != count:
        raise ValueError(f"{len(cell)} {what} for {count} labels: {cell!r}")
    return cell


def parse_confidence(cell: Any) -> float:
    """From 0 to 1; 1 where the cell is empty."""
    if is_empty(cell):
        return 1.0
    number = _number(cell, "confidence")
    if not 0 <= number <= 1:  # nor is NaN
        raise ValueError(f"a confidence is from 0 to 1: {cell!r}")
    return number + 0.0  # no -0.0


def parse_rotation(cell: Any) -> int:
    """Degrees counter-clockwise; 0 where the cell is empty or NaN."""
    if is_empty(cell):
        return 0
    number = _number(cell, "rotation")
    if number != number:
        return 0
    if number not in (0, 90, 180, 270):
        raise ValueError(f"a rotation is 0, 90, 180 or 270 degrees: {cell!r}")
    return int(number)


def _number(cell: Any, what: str) -> float:
    try:
        if not isinstance(cell, bool):
            return float(cell)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"the {what} is no number: {cell!r}")


def parse_checksum(cell: Any) -> str:
    """`md5:HEX` or `sha256:HEX` of hex or base64, with or without such a prefix; "" where empty."""
    if is_empty(cell):
        return ""
    text = parse_text(cell, "checksum")
    prefix, _, digest = text.rpartition(":")
    name = _HEX.get(len(digest))
    if len(digest) in _BASE64:
        name = _BASE64[len(digest)]
        digest = _hex_of_base64(digest)
    if (
        name is None
        or prefix.lower() not in ("", name)
        or not re.fullmatch(r"[0-9a-fA-F]+", digest)
    ):
        raise ValueError(f"a checksum is an md5 or sha256 in hex or base64: {text!r}")
    return f"{name}:{digest.lower()}"


def _hex_of_base64(digest: str) -> str:
    """In hex; "" where it is no base64 of a checksum."""
    try:
        found = base64.b64decode(digest, validate=True).hex()
    except ValueError:
        return ""
    return found if _HEX.get(len(found)) == _BASE64[len(digest)] else ""


def format_labels(annotations: Iterable[Annotation], delimiter: str) -> str:
    """The cell that `parse_annotations` gives the same annotations back from."""
    annotations = list(annotations)
    labels = [annotation.label for annotation in annotations]
    if all(annotation == Annotation(annotation.label) for annotation in annotations):
        text = delimiter.join(labels)
        if not _looks_like_json(text) and _split_again(text, delimiter) == labels:
            return text
    return json.dumps([_item(annotation) for annotation in annotations], ensure_ascii=False)


def _split_again(text: str, delimiter: str) -> list[str]:
    return [label for label in text.split(delimiter) if label.strip()]


def _item(annotation: Annotation) -> str | dict[str, Any]:
    label, confidence, source = annotation
    if annotation == Annotation(label):
        return label
    item: dict[str, Any] = {"label": label, "confidence": confidence, "source": source}
    return {key: item[key] for key in item if item[key] != Annotation._field_defaults.get(key)}
