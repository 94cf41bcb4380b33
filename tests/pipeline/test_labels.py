import numpy as np
import pytest

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
    ("text", "message"),
    [
        ("", "empty"),
        ("class\n", "no class below"),
        ("cat\ndog\n", "must name the column 'class'"),
        ("class,name\ncat,Cat\n", "tab between"),
        ("class\ncat\ndog\ncat\n", r"classes.tsv:4: class 'cat' is already on line 2"),
        ("class\tname\n\tCat\n", r"classes.tsv:2: the class is empty"),
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
