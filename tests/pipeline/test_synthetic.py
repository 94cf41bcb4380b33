import collections

import numpy as np
import pytest
import simplejpeg

from pipeline import synthetic
from pipeline.labels import Vocabulary

PARAMETERS = synthetic.Parameters(num_train=30, num_eval=12, seed=3)


def files(root):
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_the_number_of_workers_does_not_change_a_byte(tmp_path):
    flags = ["--num_train=30", "--num_eval=12", "--seed=3"]
    assert synthetic.main([f"--output={tmp_path / 'a'}", "--workers=1", *flags]) == 0
    assert synthetic.main([f"--output={tmp_path / 'b'}", "--workers=2", *flags]) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 42 + 5


def test_files_are_as_a_user_would_have_them(tmp_path):
    root = tmp_path / "scenes"
    assert synthetic.generate(root, PARAMETERS, num_workers=1)
    vocabulary = Vocabulary.read(root / "classes.tsv")
    assert 150 <= len(vocabulary) <= 300
    lines = (root / "train.csv").read_text().splitlines()
    assert lines[0] == "image_path,labels"
    assert len(lines) == 31
    for line in lines[1:]:
        path, labels = line.split(",")
        assert set(labels.split("|")) <= set(vocabulary.classes)
        height, width, _ = simplejpeg.decode_jpeg((root / path).read_bytes()).shape
        assert 64 <= min(width, height) <= max(width, height) <= 96
    weights = (root / "class_weights.tsv").read_text().splitlines()
    assert [row.split("\t")[0] for row in weights] == ["class", *vocabulary.classes]


def test_labels_hold_what_they_imply_and_have_a_long_tail():
    counts = collections.Counter()
    for index in range(400):
        _, labels = synthetic.draw(PARAMETERS, "eval", index)
        counts.update(labels)
        if "red_circle" in labels:
            assert {"red", "circle"} <= labels
        if "striped_red" in labels:
            assert {"striped", "red"} <= labels
    assert counts["circle"] > 4 * counts["hourglass"] > 0
    assert max(counts.values()) < 0.6 * 400  # no label is near-universal


def test_a_fifth_of_the_training_labels_is_dropped(tmp_path):
    parameters = synthetic.Parameters(num_train=200, num_eval=1, seed=0)
    (tmp_path / "images/train").mkdir(parents=True)
    lines = synthetic.write_task(str(tmp_path), parameters, "train", 0, 200)
    kept = sum(len(line.split(",")[1].split("|")) for line in lines)
    drawn = sum(len(synthetic.draw(parameters, "train", index)[1]) for index in range(200))
    np.testing.assert_allclose(kept / drawn, 0.8, atol=0.03)


def test_a_second_call_reuses_and_other_parameters_are_refused(tmp_path, capsys):
    root = tmp_path / "scenes"
    assert synthetic.generate(root, PARAMETERS, num_workers=1)
    assert not synthetic.generate(root, PARAMETERS, num_workers=1)
    flags = [f"--output={root}", "--num_train=31", "--num_eval=12", "--seed=3"]
    assert synthetic.main(flags) == 2
    assert "other parameters" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(synthetic.SyntheticError, match="something else"):
        synthetic.generate(tmp_path, PARAMETERS, num_workers=1)
