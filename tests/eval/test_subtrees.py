"""Subtrees of a hierarchy with their mean average precision."""

import pytest

from eval import subtrees
from pipeline.hierarchy import Hierarchy

# `pet` stands below `dog` and `cat` and `thing`; `rock` is no part of it; `thing` is no class.
HIERARCHY = Hierarchy.parse(
    b"child,parent\ndog,thing\ncat,thing\npet,dog\npet,cat\nunseen,thing\n", "hierarchy.csv"
)
CLASSES = {
    "class": ["cat", "dog", "pet", "rock"],
    "average_precision": [0.2, 0.6, 0.4, 0.9],
}


def by_label(tree):
    return {node.label: node for node in tree}


def test_a_subtree_holds_its_own_class_and_each_below_it_once():
    nodes = by_label(subtrees.nodes(HIERARCHY, CLASSES))
    assert nodes["thing"].class_ids == (0, 1, 2)  # pet once, although it has two parents
    assert nodes["dog"].class_ids == (1, 2)
    assert nodes["pet"].class_ids == (2,)
    assert nodes["thing"].class_id is None
    assert nodes["dog"].class_id == 1


def test_the_mean_is_over_the_classes_that_have_positives():
    nodes = by_label(subtrees.nodes(HIERARCHY, CLASSES))
    assert nodes["thing"].mean_average_precision == pytest.approx(0.4)
    without = {**CLASSES, "average_precision": [None, 0.6, None, 0.9]}
    nodes = by_label(subtrees.nodes(HIERARCHY, without))
    assert nodes["thing"].mean_average_precision == 0.6
    assert nodes["cat"].mean_average_precision is None


def test_children_and_roots_come_with_the_largest_first_and_nothing_without_a_class():
    tree = subtrees.nodes(HIERARCHY, CLASSES)
    assert [tree[root].label for root in subtrees.roots(tree)] == ["thing"]  # rock has no place
    children = [tree[child].label for child in by_label(tree)["thing"].children]
    assert children == ["cat", "dog"]
    assert "unseen" not in by_label(tree)
