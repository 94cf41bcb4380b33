import numpy as np
import pytest

from pipeline import labels
from pipeline.labels import LabelError, Vocabulary, read_class_counts, write_class_counts


def written(tmp_path, text, name="classes.tsv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_the_line_gives_the_class_id_and_the_key_stands_in_for_a_name(tmp_path):
    path = written(tmp_path, "\ufeffclass\tname\r\n/m/01\tTabby cat\r\n/m/02\r\n")
    vocabulary = Vocabulary.read(path)
    assert vocabulary.classes == ("/m/01", "/m/02")
    assert vocabulary.names == ("Tabby cat", "/m/02")
    assert vocabulary.index == {"/m/01": 0, "/m/02": 1}
    assert len(vocabulary) == 2


def test_a_written_class_list_reads_back_the_same(tmp_path):
    vocabulary = Vocabulary(("a", "ü b"), ("A", "Ü, B"))
    vocabulary.write(tmp_path / "classes.tsv")
    assert Vocabulary.read(tmp_path / "classes.tsv") == vocabulary


@pytest.mark.parametrize(
    ("text", "classes", "names"),
    [
        # Open Images' class descriptions, without and with the header lines that they have had.
        (
            '/m/02wvth,"Fiat 500 ""topolino"""\n/m/03hgsf0,"Lemon, lime and bitters"\n',
            ("/m/02wvth", "/m/03hgsf0"),
            ('Fiat 500 "topolino"', "Lemon, lime and bitters"),
        ),
        ('"/g/1172hxxrk","traditional sport"\n', ("/g/1172hxxrk",), ("traditional sport",)),
        ("id,name\r\n/m/01,Box\r\n/m/02,Box\r\n", ("/m/01", "/m/02"), ("Box", "Box")),
        ("\ufeffLabelName,DisplayName\n/m/01,Box\n", ("/m/01",), ("Box",)),
        # Its list of trainable classes.
        ("/m/01\n/m/02\n", ("/m/01", "/m/02"), ("/m/01", "/m/02")),
        ("LabelName\n/m/01\n", ("/m/01",), ("/m/01",)),
        ("/m/01\tBox, open\n", ("/m/01",), ("Box, open",)),
        # ImageNet's lists: a class a line, whatever is in it.
        ("tench\n\ngoldfish, carp\nid\n", ("tench", "goldfish, carp", "id"), None),
        ("id\nname\n", ("id", "name"), None),
        # A table of one's own.
        ('name,class,n\n"Cat, tabby",cat,3\n', ("cat",), ("Cat, tabby",)),
        ('class\tname\n5" disk\t"Disk"\n', ('5" disk',), ('"Disk"',)),
        ('class\n"a, b\n', ('"a, b',), None),
        ("class\tcount\ncat\t7\n", ("cat",), None),
        ('class,name\ncat,"Cat\ntabby"\n', ("cat",), ("Cat tabby",)),
    ],
)
def test_class_lists_of_every_kind_are_known_by_their_first_line(tmp_path, text, classes, names):
    vocabulary = Vocabulary.read(written(tmp_path, text, "classes.txt"))
    assert vocabulary == Vocabulary(classes, names or classes)
    vocabulary.write(tmp_path / "classes.tsv")
    assert Vocabulary.read(tmp_path / "classes.tsv") == vocabulary


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (",\n", "empty"),
        ("class\n", "no class below"),
        ("tench, Tinca tinca\n", r":1: the header line must name the column 'class'.*'tench'"),
        ("\nlabel\tname\ncat\tCat\n", r":2: .* must name the column 'class', with tabs or commas"),
        ("class\ncat\ndog\ncat\n", r"classes.tsv:4: class 'cat' is already on line 2"),
        ("tench\ncrane\ncrane\n", r"classes.tsv:3: class 'crane' is already on line 2"),
        ('/m/1,"a\nb"\n/m/2,c\n/m/1,d\n', r"classes.tsv:4: class '/m/1' is already on line 1"),
        ('/m/1,a\n/m/2,"b\n', r"classes.tsv:2: not a table of text: unexpected end"),
        ("/m/1,a\n/m/2,b,c\n", r"classes.tsv:2: 3 columns below a header of 2"),
        ('id,name\n"/m/\n1",a\n', r"classes.tsv:2: a label has no control character"),
        ("class\tname\n\tCat\n", r"classes.tsv:2: a label is empty"),
        ("class\ncat\tCat\n", r"classes.tsv:2: 2 columns"),
        ("class\tname\tclass\nx\tX\tcat\n", r"classes.tsv:1: the header names a column twice"),
    ],
)
def test_an_unusable_class_list_is_an_error_that_says_where(tmp_path, text, message):
    with pytest.raises(LabelError, match=message):
        Vocabulary.read(written(tmp_path, text))


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "classes.tsv"
    path.write_bytes(b"class\n\xff\xfe\n")
    with pytest.raises(LabelError, match="not UTF-8"):
        Vocabulary.read(path)


def test_counts_are_read_by_class_in_any_order(tmp_path):
    vocabulary = Vocabulary(("a", "b"), ("a", "b"))
    path = written(tmp_path, "class\tcount\nb\t7\na\t0\n")
    np.testing.assert_array_equal(read_class_counts(path, vocabulary), [0, 7])
    write_class_counts(path, vocabulary, np.array([3, 4]))
    assert path.read_text() == "class\tcount\na\t3\nb\t4\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a\t1\n", "1 classes have no count: b"),
        ("a\t1\nb\t2\nc\t3\n", ":4: class 'c' is not in the class list"),
        ("a\t1\na\t2\n", ":3: class 'a' stands twice"),
        ("a\t-1\nb\t2\n", ":2: a count is a whole number. Received: '-1'"),
        ("a\t1.5\nb\t2\n", "whole number"),
    ],
)
def test_counts_that_do_not_fit_the_class_list_are_an_error(tmp_path, rows, message):
    path = written(tmp_path, "class\tcount\n" + rows)
    with pytest.raises(LabelError, match=message):
        read_class_counts(path, Vocabulary(("a", "b"), ("a", "b")))


def test_display_names_are_read_by_class_and_may_repeat(tmp_path):
    path = written(tmp_path, "/m/01,Ball\n/m/02,Ball\n/m/03,\n", "names.csv")
    names = labels.parse_class_names(path.read_bytes(), path)
    assert names == {"/m/01": "Ball", "/m/02": "Ball", "/m/03": "/m/03"}


COUNTS = {"cat": 5, "ant": 5, "dog": 9, "yak": 1, "bee": 2}


@pytest.mark.parametrize(
    ("min_count", "max_classes", "classes"),
    [
        (1, None, ("dog", "ant", "cat", "bee", "yak")),
        (2, None, ("dog", "ant", "cat", "bee")),
        (1, 2, ("dog", "ant")),
        (6, 100, ("dog",)),
    ],
)
def test_a_vocabulary_is_built_of_the_most_frequent_labels(min_count, max_classes, classes):
    built = labels.build(COUNTS, min_count, max_classes, names={"dog": "Dog", "fox": "Fox"})
    assert built.classes == classes
    assert built.names == ("Dog", *classes[1:])
    shuffled = dict(sorted(COUNTS.items()))
    assert labels.build(shuffled, min_count, max_classes, {}).classes == classes


@pytest.mark.parametrize(("counts", "largest"), [(COUNTS, 9), ({}, 0)])
def test_no_label_frequent_enough_is_an_error_that_says_how_frequent_they_are(counts, largest):
    with pytest.raises(LabelError, match=f"10 times or more.*largest count is {largest}$"):
        labels.build(counts, 10, None, {})


def test_labels_that_the_class_list_could_not_give_back_are_passed_over(tmp_path):
    counts = dict.fromkeys(("", " cat", "a\tb", "a\nb", "\ud800", "cat", "ü, b", '"q"'), 1)
    built = labels.build(counts, 1, None, {})
    assert built.classes == ('"q"', "cat", "ü, b")
    built.write(tmp_path / "classes.tsv")
    assert Vocabulary.read(tmp_path / "classes.tsv") == built
