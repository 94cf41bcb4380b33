"""The classes of a report as a tree: how well every subtree of a label hierarchy is recognised."""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.hierarchy import Hierarchy


@dataclass(frozen=True)
class Node:
    """A label of the hierarchy that is a class, or has classes below it."""

    label: str
    class_id: int | None  # None: a label above classes that is none itself
    children: tuple[int, ...]  # indices into the list of nodes; the largest subtree first
    class_ids: tuple[int, ...]  # of the subtree, each once, its own included
    mean_average_precision: float | None  # unweighted, over those of them that have positives


def nodes(hierarchy: Hierarchy, classes: dict[str, list[Any]]) -> list[Node]:
    """All nodes of the tree; a label with several parents is a child of each of them.

    Args:
        classes: the columns `class` and `average_precision` of a report.
    """
    class_ids = {label: class_id for class_id, label in enumerate(classes["class"])}
    labels = set(class_ids).union(*(hierarchy.ancestors(label) for label in class_ids))
    below = {label: _class_ids_below(label, hierarchy, class_ids) for label in labels}
    ordered = sorted(labels, key=lambda label: (-len(below[label]), label))
    index = {label: place for place, label in enumerate(ordered)}
    children: dict[str, list[int]] = {label: [] for label in labels}
    for label in ordered:
        for parent in hierarchy.parents.get(label, ()):
            children[parent].append(index[label])
    return [
        Node(
            label=label,
            class_id=class_ids.get(label),
            children=tuple(children[label]),
            class_ids=below[label],
            mean_average_precision=_mean(classes["average_precision"], below[label]),
        )
        for label in ordered
    ]


def roots(tree: list[Node]) -> list[int]:
    """The nodes that are nobody's child and have children; the largest subtree first."""
    has_parent = {child for node in tree for child in node.children}
    return [place for place, node in enumerate(tree) if node.children and place not in has_parent]


def _class_ids_below(
    label: str, hierarchy: Hierarchy, class_ids: dict[str, int]
) -> tuple[int, ...]:
    kinds = {label} | hierarchy.descendants(label)
    return tuple(sorted(class_ids[kind] for kind in kinds if kind in class_ids))


def _mean(average_precision: list[float | None], class_ids: tuple[int, ...]) -> float | None:
    values = [
        value
        for value in (average_precision[class_id] for class_id in class_ids)
        if value is not None
    ]
    return math.fsum(values) / len(values) if values else None
