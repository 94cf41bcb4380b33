import pickle

import numpy as np
import pytest

from pipeline.hierarchy import Hierarchy
from pipeline.labels import LabelError

# As in Open Images: nodes are repeated, and a label has several parents and parts.
OPEN_IMAGES = """{
  "LabelName": "/m/entity",
  "Subcategory": [
    {"LabelName": "/m/animal", "Subcategory": [
      {"LabelName": "/m/cat", "Part": [
        {"LabelName": "/m/tail", "Subcategory": [{"LabelName": "/m/bobtail"}]}
      ]}
    ]},
    {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/cat"}]}
  ]
}"""


def parsed(text, name):
    return Hierarchy.parse(text.encode(), name)


def test_open_images_subcategories_are_kinds_and_parts_are_not():
    hierarchy = parsed(OPEN_IMAGES, "hierarchy.json")
    assert hierarchy.ancestors("/m/cat") == {"/m/animal", "/m/pet", "/m/entity"}
    assert hierarchy.ancestors("/m/tail") == set()
    assert hierarchy.ancestors("/m/bobtail") == {"/m/tail"}
    assert hierarchy.descendants("/m/entity") == {"/m/animal", "/m/pet", "/m/cat"}
    assert hierarchy.descendants("/m/cat") == set()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.csv", 'child,parent\ncat,"animal, wild"\n\ncat,pet\npet,thing\n'),
        ("h.csv", '\ufeffParent,note,Child\r\n"animal, wild",x,cat\r\npet,,cat\r\nthing,,pet\r\n'),
        ("h.tsv", "parent\tchild\nanimal, wild\tcat\npet\tcat\nthing\tpet\n"),
    ],
)
def test_tables_name_the_child_and_the_parent_in_either_order(name, text):
    hierarchy = parsed(text, name)
    assert hierarchy.ancestors("cat") == {"animal, wild", "pet", "thing"}
    assert hierarchy.descendants("thing") == {"pet", "cat"}


@pytest.mark.parametrize("text", ["n2 n1\nn3\tn2\n", "parent child\nn1 n2\nn2 n3\nn2 n3\n"])
def test_two_words_a_line_are_child_and_parent_unless_the_first_line_says_otherwise(text):
    hierarchy = parsed(text, "is_a.txt")
    assert hierarchy.ancestors("n3") == {"n2", "n1"}
    assert hierarchy.ancestors("n1") == set()


def test_a_label_that_the_hierarchy_does_not_know_has_no_relatives():
    hierarchy = parsed("a b", "h.txt")
    assert hierarchy.ancestors("x") == set()
    assert hierarchy.descendants("x") == set()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("h.txt", "x a\na b\nb c\nc a\n", "^h.txt:4: .* a → b → c → a$"),
        ("h.txt", "c a\nb c\na b\n", "^h.txt:3: .* a → b → c → a$"),
        ("h.csv", "child,parent\na,a\n", "^h.csv:2: .* a → a$"),
        (
            "h.json",
            '{"LabelName": "a", "Subcategory": [{"LabelName": "a"}]}',
            r"^h.json: \$\.Subcategory\[0\]: .* a → a$",
        ),
    ],
)
def test_a_cycle_is_an_error_that_prints_it(name, text, message):
    with pytest.raises(LabelError, match=message):
        parsed(text, name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("h.txt", "a b\nb c d\n", "^h.txt:2: a line holds two words.*'b c d'"),
        ("h.txt", " \n", "^h.txt: the file is empty"),
        ("h.txt", "child parent\n", "^h.txt: no label has a parent"),
        ("h.csv", "kind,of\na,b\n", "^h.csv:1: the header line must name the column 'child'"),
        ("h.csv", "child,parent\na,b\na,\n", "^h.csv:3: a label is empty"),
        ("h.tsv", "child\tparent\na\tb\tc\n", "^h.tsv:2: 3 columns below a header of 2"),
        ("h.csv", 'child,parent\na,"b\nc"\n', "^h.csv:2: a label has no control character"),
        ("h.json", "{\n]", "^h.json:2: not JSON"),
        ("h.json", "[" * 100_000, "^h.json: nested too deeply"),
        ("h.json", "[]", r'^h.json: \$: a node is an object with a text "LabelName"'),
        (
            "h.json",
            '{"LabelName": "a", "Part": [{"LabelName": 3}]}',
            r"^h.json: \$\.Part\[0\]: a node",
        ),
        ("h.json", '{"LabelName": "a", "Subcategory": {}}', r"\$\.Subcategory is a list of nodes"),
        (
            "h.json",
            '{"LabelName": "a", "Subcategory": [{"LabelName": "\\ud800"}]}',
            "text that UTF-8 can write",
        ),
        ("h.xml", "<a/>", "^h.xml: a hierarchy is a file with the ending .json.* Received: .xml"),
    ],
)
def test_an_unusable_hierarchy_is_an_error_that_says_where(name, text, message):
    with pytest.raises(LabelError, match=message):
        parsed(text, name)


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "h.txt"
    path.write_bytes(b"caf\xe9 drink\n")
    with pytest.raises(LabelError, match=r"h\.txt: not UTF-8"):
        Hierarchy.parse(path.read_bytes(), path)


def test_a_chain_of_many_thousands_is_no_deeper_than_any():
    length = 50_000
    hierarchy = parsed("\n".join(f"{n} {n + 1}" for n in range(length)), "h.txt")
    assert len(hierarchy.ancestors("0")) == length
    assert len(hierarchy.descendants(str(length))) == length


def test_ancestors_are_those_of_repeated_multiplication_by_the_adjacency_matrix():
    rng = np.random.default_rng(0)
    count = 60
    adjacent = np.triu(rng.random((count, count)) < 0.05, 1)  # upwards only: no cycle
    reached = adjacent
    for _ in range(count):
        reached = adjacent | (reached.astype(int) @ adjacent > 0)
    text = "\n".join(f"{child} {parent}" for child, parent in np.argwhere(adjacent))
    hierarchy = parsed(text, "h.txt")
    for node in range(count):
        assert hierarchy.ancestors(str(node)) == set(map(str, np.flatnonzero(reached[node])))
        assert hierarchy.descendants(str(node)) == set(map(str, np.flatnonzero(reached[:, node])))


def test_a_pickled_hierarchy_is_small_and_answers_the_same():
    hierarchy = parsed("\n".join(f"{n} {n + 1}" for n in range(500)), "h.txt")
    before = len(pickle.dumps(hierarchy))
    answers = [hierarchy.ancestors(str(n)) for n in range(500)]
    assert len(pickle.dumps(hierarchy)) == before
    copy = pickle.loads(pickle.dumps(hierarchy))  # noqa: S301
    assert copy == hierarchy
    assert [copy.ancestors(str(n)) for n in range(500)] == answers
