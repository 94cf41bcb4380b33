"""The class list and the class counts: which labels exist, their ids, and how often each occurs.

Both are TSV files with a header line, in UTF-8:

    classes.tsv         class<TAB>name
    class_counts.tsv    class<TAB>count

`class` is the key that label files use; the order of the class list gives the class ids, from 0;
`name` is optional and shown to people. Columns are found by their names and others are ignored, so
that a counts file is a class list too.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from etils import epath


class LabelError(ValueError):
    """A class list or counts file that cannot be used; says which line."""


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
        keys: dict[str, int] = {}
        names = []
        for line_number, row in _parse_tsv(data, path, required=("class",)):
            key = row["class"]
            if not key:
                raise LabelError(f"{path}:{line_number}: the class is empty")
            if key in keys:
                raise LabelError(
                    f"{path}:{line_number}: class {key!r} is already on line {keys[key]}; "
                    "each class stands once"
                )
            keys[key] = line_number
            names.append(row.get("name") or key)
        if not keys:
            raise LabelError(f"{path}: no class below the header line")
        return cls(tuple(keys), tuple(names))

    def write(self, path: epath.PathLike) -> None:
        """Writes the class list; `read` gives the same vocabulary back."""
        epath.Path(path).write_bytes(self.to_tsv().encode())

    def to_tsv(self) -> str:
        """The text of the class list file."""
        rows = zip(self.classes, self.names, strict=True)
        return "class\tname\n" + "".join(f"{key}\t{name}\n" for key, name in rows)


def read_class_counts(path: epath.PathLike, vocabulary: Vocabulary) -> np.ndarray:
    """int64 [num_classes]: the counts in `path` by class id; every class must be there, once."""
    counts = np.full(len(vocabulary), -1, dtype=np.int64)
    data = epath.Path(path).read_bytes()
    for line_number, row in _parse_tsv(data, path, required=("class", "count")):
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


def _parse_tsv(
    data: bytes, path: epath.PathLike, required: tuple[str, ...]
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column name); cells are stripped, blank lines skipped."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 text: {error}") from error
    lines = text.split("\n")
    if not text.strip():
        raise LabelError(f"{path}: the file is empty; its first line names the columns")
    header = [cell.strip() for cell in lines[0].split("\t")]
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        raise LabelError(f"{path}:1: the header names a column twice: {', '.join(repeated)}")
    for column in required:
        if column not in header:
            raise LabelError(
                f"{path}:1: the header line must name the column {column!r}, with a tab between "
                f"columns. Received: {lines[0].strip()!r}"
            )
    for line_number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) > len(header):
            raise LabelError(
                f"{path}:{line_number}: {len(cells)} columns below a header of {len(header)}"
            )
        cells += [""] * (len(header) - len(cells))
        yield line_number, dict(zip(header, cells, strict=True))
