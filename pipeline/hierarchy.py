"""Which label is a kind of which: read from a file, and asked for ancestors and descendants.

    .json        Open Images' hierarchy: {"LabelName": ..., "Subcategory": [...], "Part": [...]},
                 nested. A subcategory is a kind of its node; a part (of a car, say) is not.
    .csv, .tsv   a header line that names the columns `child` and `parent`, in either order
    .txt         two words a line: child, parent. The other way round, as in WordNet's
                 wordnet.is_a.txt, needs `parent child` as its first line.

The same node may stand in several places, below several parents, but never below itself.
"""

import csv
import dataclasses
import functools
import graphlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from pipeline import labels
from pipeline.labels import LabelError

_NONE: frozenset[str] = frozenset()
_COLUMNS = ("child", "parent")


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """The is-a relation between labels; a label may have several parents."""

    parents: Mapping[str, tuple[str, ...]]  # of every label that has any

    @classmethod
    def parse(cls, data: bytes, path: epath.PathLike) -> "Hierarchy":
        """The hierarchy of a file's bytes; raises LabelError, which calls the file `path`."""
        suffix = os.path.splitext(os.fspath(path))[1].lower()
        if suffix not in _READERS:
            raise LabelError(
                f"{path}: a hierarchy is a file with the ending {', '.join(_READERS)}. "
                f"Received: {suffix or 'no ending'}"
            )
        places: dict[tuple[str, str], str] = {}  # by (child, parent); the first one counts
        parents: dict[str, list[str]] = {}
        for place, child, parent in _READERS[suffix](data, path):
            for label in (child, parent):
                fault = labels.fault_of_key(label)
                if fault:
                    raise LabelError(f"{place}: {fault}")
            if (child, parent) not in places:
                places[child, parent] = place
                parents.setdefault(child, []).append(parent)
        if not parents:
            raise LabelError(f"{path}: no label has a parent")
        _check_for_cycle(parents, places)
        return cls({child: tuple(found) for child, found in parents.items()})

    def to_csv(self) -> str:
        """A table of child and parent, which `parse` reads as a .csv file."""
        text = io.StringIO()
        lines = [(child, parent) for child, found in self.parents.items() for parent in found]
        csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *lines])
        return text.getvalue()

    def ancestors(self, label: str) -> frozenset[str]:
        """Everything that `label` is a kind of."""
        return _reached(label, self.parents, self._ancestors)

    def descendants(self, label: str) -> frozenset[str]:
        """Everything that is a kind of `label`."""
        return _reached(label, self._children, self._descendants)

    @functools.cached_property
    def _children(self) -> dict[str, list[str]]:
        children: dict[str, list[str]] = {}
        for child, parents in self.parents.items():
            for parent in parents:
                children.setdefault(parent, []).append(child)
        return children

    @functools.cached_property
    def _ancestors(self) -> dict[str, frozenset[str]]:
        return {}

    @functools.cached_property
    def _descendants(self) -> dict[str, frozenset[str]]:
        return {}

    def __getstate__(self) -> dict[str, object]:
        """The relation alone travels: what was derived from it is found anew."""
        return {"parents": self.parents}


def _reached(
    start: str, steps: Mapping[str, Iterable[str]], known: dict[str, frozenset[str]]
) -> frozenset[str]:
    """What can be reached from `start`; `known` keeps the answers."""
    if start not in steps:
        return _NONE
    if start not in known:
        reached: set[str] = set()
        to_visit = [start]
        while to_visit:
            new = set(steps.get(to_visit.pop(), ())) - reached
            reached |= new
            to_visit += new
        known[start] = frozenset(reached)
    return known[start]


def _check_for_cycle(
    parents: Mapping[str, Iterable[str]], places: dict[tuple[str, str], str]
) -> None:
    try:
        graphlib.TopologicalSorter(parents).prepare()
    except graphlib.CycleError as error:
        cycle = error.args[1][:0:-1]  # each a child of the next, none twice
        start = cycle.index(min(cycle))
        cycle = [*cycle[start:], *cycle[: start + 1]]
        steps = set(itertools.pairwise(cycle))
        closing = next(place for step, place in reversed(places.items()) if step in steps)
        raise LabelError(
            f"{closing}: the hierarchy goes round in a circle, "
            f"from child to parent: {' → '.join(cycle)}"
        ) from None


def _edges_of_json(data: bytes, path: epath.PathLike) -> Iterator[tuple[str, str, str]]:
    """(place, child, parent) of Open Images' nested nodes; the place is the child's."""
    try:
        root = json.loads(labels.decoded(data, path))
    except json.JSONDecodeError as error:
        raise LabelError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except RecursionError:
        raise LabelError(f"{path}: nested too deeply to be read") from None
    to_visit: list[tuple[str, Any]] = [("$", root)]
    while to_visit:
        where, node = to_visit.pop()
        label = _label_of(node, f"{path}: {where}")
        for kind in ("Subcategory", "Part"):
            below = node.get(kind, [])
            if not isinstance(below, list):
                raise LabelError(f"{path}: {where}.{kind} is a list of nodes. Received: {below!r}")
            for number, child in enumerate(below):
                place = f"{where}.{kind}[{number}]"
                to_visit.append((place, child))
                if kind == "Subcategory":
                    yield f"{path}: {place}", _label_of(child, f"{path}: {place}"), label


def _label_of(node: Any, where: str) -> str:
    label = node.get("LabelName") if isinstance(node, dict) else None
    if not isinstance(label, str):
        raise LabelError(f'{where}: a node is an object with a text "LabelName"')
    return label


def _edges_of_table(data: bytes, path: epath.PathLike) -> Iterator[tuple[str, str, str]]:
    rows = labels.table(data, path)
    for line_number, row in labels.named_rows(rows, path, _COLUMNS):
        yield f"{path}:{line_number}", row["child"], row["parent"]


def _edges_of_text(data: bytes, path: epath.PathLike) -> Iterator[tuple[str, str, str]]:
    child, parent = 0, 1
    for line_number, line in enumerate(labels.decoded(data, path).split("\n"), start=1):
        words = line.split()
        if line_number == 1 and sorted(words) == sorted(_COLUMNS):
            child, parent = map(words.index, _COLUMNS)
        elif words:
            place = f"{path}:{line_number}"
            if len(words) != 2:
                raise LabelError(
                    f"{place}: a line holds two words, the child and its parent; labels with "
                    f"spaces go into a .csv or .tsv file. Received: {line.strip()!r}"
                )
            yield place, words[child], words[parent]


_READERS = {
    ".json": _edges_of_json,
    ".csv": _edges_of_table,
    ".tsv": _edges_of_table,
    ".txt": _edges_of_text,
}
