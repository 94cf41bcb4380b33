"""The class list and the class counts: which labels exist, their ids, and how often each occurs.

Both are TSV files with a header line, in UTF-8:

    classes.tsv         class<TAB>name
    class_counts.tsv    class<TAB>count

`class` is the key that label files use; the order of the class list gives the class ids, from 0;
`name` is optional, shown to people, and need not be unique. Columns are found by their names, in
any case, and others are ignored, so that a counts file is a class list too.

Class lists of others are read as well. The first line decides how:

    it has a comma and no tab           CSV, quoted where need be; otherwise tabs part the columns
    it names `class`, LabelName or id   a header, with `name` or DisplayName beside it, as some of
                                        Open Images' class descriptions have
    it begins with /m/ or /g/           no header, `class` and `name`: the others of them, and the
                                        list of trainable classes, which has no names
    it is one column, and not `class`   no header, a class a line: as ImageNet's lists are
"""

import csv
import dataclasses
import functools
import io
import os
from collections.abc import Iterator, Mapping

import numpy as np
from etils import epath

from pipeline.records import CONTROL_CHARACTERS

_KEY_COLUMNS = ("class", "labelname", "id")  # the first that is there
_NAME_COLUMNS = ("name", "displayname")
_ONLY_COLUMN = ("class", "labelname")  # `id` alone is a class like another
_MACHINE_IDS = ("/m/", "/g/")  # how the class keys of Open Images begin


class LabelError(ValueError):
    """A class list, counts file or hierarchy that cannot be used; says which line."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The classes, in the order of their ids."""

    classes: tuple[str, ...]  # keys, as in label files
    names: tuple[str, ...]  # what people read; the key where the list has no name

    def __len__(self) -> int:
        return len(self.classes)

    @functools.cached_property
    def index(self) -> dict[str, int]:
        """Class id of a class's key."""
        return {key: class_id for class_id, key in enumerate(self.classes)}

    @classmethod
    def read(cls, path: epath.PathLike) -> "Vocabulary":
        """The class list in `path`; raises LabelError with file and line, or OSError."""
        return cls.parse(epath.Path(path).read_bytes(), path)

    @classmethod
    def parse(cls, data: bytes, path: epath.PathLike) -> "Vocabulary":
        """The class list of a file's bytes; raises LabelError, which calls the file `path`."""
        places: dict[str, int] = {}
        names = []
        for line_number, key, name in _class_rows(data, path):
            fault = fault_of_key(key)
            if fault:
                raise LabelError(f"{path}:{line_number}: {fault}")
            if key in places:
                raise LabelError(
                    f"{path}:{line_number}: class {key!r} is already on line {places[key]}; "
                    "each class stands once"
                )
            places[key] = line_number
            names.append(CONTROL_CHARACTERS.sub(" ", name).strip() or key)
        if not places:
            raise LabelError(f"{path}: no class below the header line")
        return cls(tuple(places), tuple(names))

    def write(self, path: epath.PathLike) -> None:
        """Writes the class list; `read` gives the same vocabulary back."""
        epath.Path(path).write_bytes(self.to_tsv().encode())

    def to_tsv(self) -> str:
        """The text of the class list file."""
        rows = zip(self.classes, self.names, strict=True)
        return "class\tname\n" + "".join(f"{key}\t{name}\n" for key, name in rows)


def build(
    counts: Mapping[str, int],
    min_count: int,
    max_classes: int | None,
    names: Mapping[str, str],
) -> Vocabulary:
    """The labels that are counted at least `min_count` times, the most frequent first.

    Labels of one count are in the order of their keys; of all of them `max_classes` are kept.
    Labels that a class list cannot hold (see fault_of_key) are passed over. Raises LabelError
    where no label is left.
    """
    frequent = [
        label
        for label, count in counts.items()
        if count >= min_count and fault_of_key(label) is None
    ]
    if not frequent:
        raise LabelError(
            f"no label occurs {min_count} times or more, as a class has to. Received: "
            f"{len(counts)} labels, the largest count is {max(counts.values(), default=0)}"
        )
    classes = sorted(frequent, key=lambda label: (-counts[label], label))[:max_classes]
    return Vocabulary(tuple(classes), tuple(names.get(label, label) for label in classes))


def parse_class_names(data: bytes, path: epath.PathLike) -> dict[str, str]:
    """What people call each class, by its key: a class list, of more or other classes maybe."""
    vocabulary = Vocabulary.parse(data, path)
    return dict(zip(vocabulary.classes, vocabulary.names, strict=True))


def read_class_counts(path: epath.PathLike, vocabulary: Vocabulary) -> np.ndarray:
    """int64 [num_classes]: the counts in `path` by class id; every class must be there, once."""
    counts = np.full(len(vocabulary), -1, dtype=np.int64)
    rows = table(epath.Path(path).read_bytes(), path)
    path = os.fspath(path)  # as text: an epath takes 5 us to become it, for each row
    for line_number, row in named_rows(rows, path, required=("class", "count")):
        where = f"{path}:{line_number}"
        class_id = vocabulary.index.get(row["class"])
        if class_id is None:
            raise LabelError(f"{where}: class {row['class']!r} is not in the class list")
        if counts[class_id] >= 0:
            raise LabelError(f"{where}: class {row['class']!r} stands twice")
        if not row["count"].isdecimal():
            raise LabelError(f"{where}: a count is a whole number. Received: {row['count']!r}")
        counts[class_id] = int(row["count"])
    absent = np.flatnonzero(counts < 0)
    if absent.size:
        examples = ", ".join(vocabulary.classes[class_id] for class_id in absent[:5])
        raise LabelError(f"{path}: {absent.size} classes have no count: {examples}")
    return counts


def write_class_counts(path: epath.PathLike, vocabulary: Vocabulary, counts: np.ndarray) -> None:
    """Writes int64 [num_classes] `counts`."""
    epath.Path(path).write_bytes(class_counts_to_tsv(vocabulary, counts).encode())


def class_counts_to_tsv(vocabulary: Vocabulary, counts: np.ndarray) -> str:
    """The text of the class counts file."""
    rows = zip(vocabulary.classes, counts, strict=True)
    return "class\tcount\n" + "".join(f"{key}\t{count}\n" for key, count in rows)


def fault_of_key(label: str) -> str | None:
    """What keeps `label` from being a class or a node: its files could not give it back."""
    if not label:
        return "a label is empty"
    if CONTROL_CHARACTERS.search(label) or label != label.strip():
        return f"a label has no control character, and no space around it. Received: {label!r}"
    try:
        label.encode()
    except UnicodeEncodeError:
        return f"a label is text that UTF-8 can write. Received: {label!r}"
    return None


def decoded(data: bytes, path: epath.PathLike) -> str:
    """The text of a file's bytes; raises LabelError where it is not UTF-8 or has no text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 text: {error}") from error
    if not text.strip():
        raise LabelError(f"{path}: the file is empty")
    return text


def table(data: bytes, path: epath.PathLike) -> list[tuple[int, list[str]]]:
    """(line number, stripped cells) of each row that is not blank, the header's too."""
    text = decoded(data, path)
    first = next(line for line in text.split("\n") if line.strip())
    is_csv = "," in first and "\t" not in first
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="," if is_csv else "\t",
        quoting=csv.QUOTE_MINIMAL if is_csv else csv.QUOTE_NONE,
        strict=True,
    )
    rows = []
    line_number = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((line_number, cells))
            line_number = reader.line_num + 1
    except csv.Error as error:
        raise LabelError(f"{path}:{line_number}: not a table of text: {error}") from error
    if not rows:
        raise LabelError(f"{path}: the file is empty")
    return rows


def named_rows(
    rows: list[tuple[int, list[str]]], path: epath.PathLike, required: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by lower-case column name) of a table whose first row is a header."""
    header_line, columns = rows[0]
    header = [cell.lower() for cell in columns]
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        raise LabelError(
            f"{path}:{header_line}: the header names a column twice: {', '.join(repeated)}"
        )
    for column in required:
        if column not in header:
            raise LabelError(
                f"{path}:{header_line}: the header line must name the column {column!r}, with "
                f"tabs or commas between columns. Received: {columns}"
            )
    for line_number, cells in rows[1:]:
        if len(cells) > len(header):
            raise LabelError(
                f"{path}:{line_number}: {len(cells)} columns below a header of {len(header)}"
            )
        cells += [""] * (len(header) - len(cells))
        yield line_number, dict(zip(header, cells, strict=True))


def _class_rows(data: bytes, path: epath.PathLike) -> Iterator[tuple[int, str, str]]:
    """(line number, key, name), whatever kind of class list it is."""
    rows = table(data, path)
    first_line, first = rows[0]
    header = [cell.lower() for cell in first]
    if first[0].startswith(_MACHINE_IDS):
        header = ["class", "name"]
        rows = [(first_line, header), *rows]
    elif len(first) == 1 and header[0] not in _ONLY_COLUMN:
        header = ["class"]
        rows = [(first_line, header), *rows]
    key_column = next((column for column in _KEY_COLUMNS if column in header), "class")
    name_column = next((column for column in _NAME_COLUMNS if column in header), "name")
    for line_number, row in named_rows(rows, path, required=(key_column,)):
        yield line_number, row[key_column], row.get(name_column, "")
