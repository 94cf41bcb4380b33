"""Reading, writing and making files of class weights."""

import numpy as np
import pytest

from eval import class_weights
from eval.class_weights import ClassWeightsError
from pipeline.labels import Vocabulary

CLASSES = Vocabulary(tuple("abcdefg"), tuple("ABCDEFG"))
GOOD = [f"{key}\t{weight}" for weight, key in enumerate(CLASSES.classes)]


def write_lines(tmp_path, lines, header="class\tweight"):
    path = tmp_path / "weights.tsv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_weights_come_back_in_the_order_of_the_classes(tmp_path):
    path = write_lines(tmp_path, [*reversed(GOOD), ""])
    np.testing.assert_array_equal(class_weights.read(path, CLASSES), np.arange(7))


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path):
    weights = np.array([0.1, 1 / 3, 1e-300, 0, 5e300, 2, np.pi])
    class_weights.write(tmp_path / "w.tsv", CLASSES, weights)
    np.testing.assert_array_equal(class_weights.read(tmp_path / "w.tsv", CLASSES), weights)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*GOOD, "a\t1"], "line 9: class 'a' has a weight already"),
        ([*GOOD, "z\t1"], "line 9: class 'z' is not in the class list"),
        (["a\t-1", *GOOD[1:]], "line 2: the weight of class 'a' must be a number from 0"),
        (["a\tnan", *GOOD[1:]], "Received: 'nan'"),
        (["a\tinf", *GOOD[1:]], "Received: 'inf'"),
        (["a\tmuch", *GOOD[1:]], "Received: 'much'"),
        (["a 1", *GOOD[1:]], "line 2: expected a class and a weight with one tab"),
        (GOOD[1:], "class 'a' of the class list has no weight"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, lines, message):
    with pytest.raises(ClassWeightsError) as error:
        class_weights.read(write_lines(tmp_path, lines), CLASSES)
    assert message in str(error.value)


def test_of_many_mistakes_the_first_five_are_named(tmp_path):
    with pytest.raises(ClassWeightsError) as error:
        class_weights.read(write_lines(tmp_path, []), CLASSES)
    assert str(error.value).count("has no weight") == 5
    assert "and 2 more" in str(error.value)


def test_a_file_without_the_header_is_refused(tmp_path):
    path = write_lines(tmp_path, GOOD, header="class\tcount")
    with pytest.raises(ClassWeightsError, match="line 1 must be the header"):
        class_weights.read(path, CLASSES)
    path.write_bytes(b"")
    with pytest.raises(ClassWeightsError, match="an empty file"):
        class_weights.read(path, CLASSES)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ClassWeightsError, match="cannot be read"):
        class_weights.read(tmp_path / "absent.tsv", CLASSES)
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClassWeightsError, match="cannot be read"):
        class_weights.read(tmp_path / "binary.tsv", CLASSES)


def test_the_command_makes_weights_from_counts(tmp_path, capsys):
    counts = tmp_path / "counts.tsv"
    counts.write_text("class\tcount\na\t4\nb\t0\nc\t9\n")
    output = tmp_path / "weights.tsv"
    arguments = [f"--counts={counts}", "--power=0.5", f"--output={output}"]
    assert class_weights.main(arguments) == 0
    assert output.read_text() == "class\tweight\na\t2.0\nb\t0.0\nc\t3.0\n"
    assert "3 weights" in capsys.readouterr().out


def test_the_command_refuses_what_is_no_table_of_counts(tmp_path, capsys):
    counts = tmp_path / "counts.tsv"
    counts.write_text("class\tcount\na\tmany\n")
    assert class_weights.main([f"--counts={counts}", f"--output={tmp_path / 'w.tsv'}"]) == 2
    assert "counts.tsv:2" in capsys.readouterr().err
    assert not (tmp_path / "w.tsv").exists()
