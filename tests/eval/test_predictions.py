"""Predictions of any framework: every kind of file gives one report, and misfits are named."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.metrics import average_precision_score, precision_recall_curve
from tiny_run import CLASSES, write_dataset

from eval import evaluate
from pipeline.labels import Vocabulary, write_class_counts

KEYS = CLASSES.classes
NUM_IMAGES = 30


@pytest.fixture
def written(tmp_path):
    """The images of the tiny run as shards and as label files, and scores for them."""
    write_dataset(tmp_path / "data")
    CLASSES.write(tmp_path / "classes.tsv")
    write_class_counts(tmp_path / "counts.tsv", CLASSES, np.array([50, 30, 20, 10]))
    truth = np.zeros((NUM_IMAGES, 4), bool)
    lines = ["image_id,image_path,labels"]
    for index in range(NUM_IMAGES):
        label = () if index % 5 == 4 else (index % 3,)
        truth[index, list(label)] = True
        lines.append(f"image-{index},{index}.jpg,{'|'.join(KEYS[c] for c in label)}")
    (tmp_path / "truth.csv").write_text("\n".join(lines) + "\n")
    scores = np.random.default_rng(0).normal(size=truth.shape).astype(np.float16)
    scores[truth] += 1
    return Written(tmp_path, truth, scores.astype(np.float32))


class Written:
    def __init__(self, folder, truth, scores):
        self.folder, self.truth, self.scores = folder, truth, scores
        self.ids = [f"image-{index}" for index in range(NUM_IMAGES)]

    def dense(self, dtype=np.float32, order=None):
        order = np.random.default_rng(1).permutation(NUM_IMAGES) if order is None else order
        np.save(self.folder / "scores.npy", self.scores[order].astype(dtype))
        (self.folder / "ids.txt").write_text("".join(f"{self.ids[i]}\n" for i in order))
        return [
            f"--predictions={self.folder / 'scores.npy'}",
            f"--ids={self.folder / 'ids.txt'}",
            f"--classes={self.folder / 'classes.tsv'}",
        ]

    def lists(self, suffix, as_keys):
        order = np.argsort(-self.scores, axis=1, kind="stable")
        scores = np.take_along_axis(self.scores, order, axis=1)
        classes = np.array(KEYS)[order] if as_keys else order
        path = self.folder / f"lists{suffix}"
        if suffix == ".npz":
            np.savez(path, image_ids=np.array(self.ids), classes=classes, scores=scores)
        else:
            columns = [
                self.ids,
                classes.tolist(),
                pa.array(scores.tolist(), pa.list_(pa.float32())),
            ]
            names = ["image_id", "classes", "scores"]
            parquet.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
        return [f"--predictions={path}", f"--classes={self.folder / 'classes.tsv'}"]

    def shards(self):
        return [f"--data={self.folder / 'data'}", "--split=eval"]

    def label_files(self):
        return [f"--labels={self.folder / 'truth.csv'}"]

    def run(self, *arguments):
        output, counts = self.folder / "out", self.folder / "counts.tsv"
        return evaluate.main([*arguments, f"--output={output}", f"--class_counts={counts}"])

    def report(self, *arguments):
        assert self.run(*arguments) == 0
        return json.loads((self.folder / "out/report.json").read_text())


def test_dense_predictions_equal_scikit_learn(written):
    report = written.report(*written.dense(), *written.shards(), "--score_space=logits")
    for c in range(3):
        expected = average_precision_score(written.truth[:, c], written.scores[:, c])
        assert report["classes"]["average_precision"][c] == pytest.approx(expected, rel=1e-12)
    assert report["source"] == "predictions"
    assert report["score_space"] == "logits float32"
    assert report["calibration"]["error"] > 0


def test_the_curves_of_the_chosen_classes_equal_scikit_learn(written, capsys):
    arguments = [*written.dense(), *written.shards()]
    curves = written.report(*arguments, "--curves=blue,red")["curves"]
    assert list(curves) == ["blue", "red"]
    for key, curve in curves.items():
        c = KEYS.index(key)
        precision, recall, _ = precision_recall_curve(written.truth[:, c], written.scores[:, c])
        # From the highest score down, without the point that scikit-learn puts before it.
        assert curve["precision"] == pytest.approx(precision[-2::-1], rel=1e-12)
        assert curve["recall"] == pytest.approx(recall[-2::-1], rel=1e-12)
    assert "1 of 2 classes are not in the class list" in refusal(
        written, capsys, *arguments, "--curves=blue,mauve"
    )


@pytest.mark.parametrize("images", ["shards", "label_files"])
@pytest.mark.parametrize(
    "scores",
    [
        lambda written: written.dense(np.float16),
        lambda written: written.lists(".npz", as_keys=True),
        lambda written: written.lists(".npz", as_keys=False),
        lambda written: written.lists(".parquet", as_keys=True),
        lambda written: written.lists(".parquet", as_keys=False),
    ],
    ids=["float16", "npz of keys", "npz of ids", "parquet of keys", "parquet of ids"],
)
def test_every_kind_of_file_gives_the_same_numbers(written, scores, images):
    expected = written.report(*written.dense(order=range(NUM_IMAGES)), *written.label_files())
    found = written.report(*scores(written), *getattr(written, images)())
    values = {name: metric["value"] for name, metric in found["metrics"].items()}
    expected = {name: metric["value"] for name, metric in expected["metrics"].items()}
    for name, value in expected.items():
        assert values[name] == value, name


def test_the_words_of_a_list_that_ends_early_are_not_scored(written):
    # Each image's best class alone: D1 with k = 1.
    best = written.scores.argmax(axis=1)
    classes = np.full((NUM_IMAGES, 2), "", dtype="<U8")
    classes[:, 0] = np.array(KEYS)[best]
    scores = np.stack([written.scores.max(axis=1), np.zeros(NUM_IMAGES, np.float32)], axis=1)
    path = written.folder / "short.npz"
    np.savez(path, image_ids=np.array(written.ids), classes=classes, scores=scores)
    report = written.report(f"--predictions={path}", *written.shards())
    hits = written.truth[np.arange(NUM_IMAGES), best]
    expected = [(hits & (best == c)).sum() / written.truth[:, c].sum() for c in range(3)]
    assert report["classes"]["recall"][:3] == pytest.approx(expected)


def refusal(written, capsys, *arguments):
    assert written.run(*arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("images", ["shards", "label_files"])
def test_images_that_are_missing_or_too_many_are_named(written, capsys, images):
    chosen = getattr(written, images)()
    error = refusal(written, capsys, *written.dense(order=range(7, NUM_IMAGES)), *chosen)
    assert "no scores for 7 images ('image-0'," in error
    assert error.count("'image-") == 5
    (written.folder / "ids.txt").write_text("".join(f"other-{i}\n" for i in range(2)))
    written.ids += ["other-0", "other-1"]
    written.scores = np.concatenate([written.scores, written.scores[:2]])
    error = refusal(written, capsys, *written.dense(order=range(NUM_IMAGES + 2)), *chosen)
    assert "scores 2 images ('other-0', 'other-1') that" in error


@pytest.mark.parametrize("images", ["shards", "label_files"])
def test_two_processes_give_the_same_report_and_name_the_same_misfits(written, capsys, images):
    chosen = [*getattr(written, images)(), "--score_space=logits"]
    reports = [
        written.report(*written.dense(), *chosen, f"--num_processes={number}") for number in (1, 2)
    ]
    for report in reports:
        del report["written"], report["seconds"]
    assert reports[0] == reports[1]

    chosen.append("--num_processes=2")
    without_last = written.dense(order=range(NUM_IMAGES - 1))
    error = refusal(written, capsys, *without_last, *chosen)
    assert "no scores for at least 1 image ('image-29') of" in error
    written.ids += ["other"]
    written.scores = np.concatenate([written.scores, written.scores[:1]])
    error = refusal(written, capsys, *written.dense(order=range(NUM_IMAGES + 1)), *chosen)
    assert "scores 1 image ('other') that" in error


def test_an_image_that_is_scored_twice_is_named(written, capsys):
    arguments = written.dense(order=[*range(NUM_IMAGES), 3])
    error = refusal(written, capsys, *arguments, *written.shards())
    assert "scores 1 image ('image-3') more than once" in error


def test_classes_in_another_order_are_refused(written, capsys):
    arguments = written.dense()
    Vocabulary(KEYS[::-1], KEYS[::-1]).write(written.folder / "classes.tsv")
    error = refusal(written, capsys, *arguments, *written.shards())
    assert "the same classes in another order" in error
    assert "class 0: 'none' and 'red'" in error


def test_other_classes_are_refused(written, capsys):
    arguments = written.dense()
    keys = (*KEYS[:3], "purple", "pink")
    Vocabulary(keys, keys).write(written.folder / "classes.tsv")
    error = refusal(written, capsys, *arguments, *written.shards())
    assert "lists 5 classes" in error
    assert "class 3: 'purple' and 'none'" in error
    assert "3 classes are in one of them alone" in error


def test_a_matrix_that_does_not_fit_its_ids_is_refused(written, capsys):
    arguments = written.dense()
    (written.folder / "ids.txt").write_text("image-0\n")
    assert "30 rows and 4 columns, but" in refusal(written, capsys, *arguments, *written.shards())


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((30, 4), np.float64), "float32 or float16"),
        (np.zeros(120, np.float32), "shape [120]"),
        (np.array([[{}] * 4] * 30), "no .npy file of numbers"),
    ],
)
def test_what_is_no_matrix_of_scores_is_refused(written, capsys, scores, message):
    arguments = written.dense()
    np.save(written.folder / "scores.npy", scores)
    assert message in refusal(written, capsys, *arguments, *written.shards())


def test_a_nan_is_named_with_its_image_and_class(written, capsys):
    written.scores[13, 2] = np.nan
    error = refusal(written, capsys, *written.dense(), *written.shards())
    assert "holds NaN for class 'blue' of image 'image-13'" in error


def test_probabilities_that_are_none_are_refused(written, capsys):
    arguments = [*written.dense(), *written.shards(), "--score_space=probabilities"]
    assert "said to hold probabilities" in refusal(written, capsys, *arguments)
    written.scores = 1 / (1 + np.exp(-written.scores))
    report = written.report(*written.dense(), *arguments[3:])
    assert report["score_space"] == "probabilities float32"
    assert "the score itself" in report["calibration"]["definition"]


def test_lists_with_unknown_or_repeated_classes_are_refused(written, capsys):
    path = written.folder / "lists.npz"
    arguments = [f"--predictions={path}", *written.shards()]
    columns = {"image_ids": np.array(["a"]), "scores": np.ones((1, 2), np.float32)}
    np.savez(path, classes=np.array([["red", "mauve"]]), **columns)
    assert "scores 1 classes that are not in the class list of 4: 'mauve'" in refusal(
        written, capsys, *arguments
    )
    np.savez(path, classes=np.array([[1, 1]]), **columns)
    assert "scores class 'green' of image 'a' twice" in refusal(written, capsys, *arguments)
    np.savez(path, classes=np.array([[1]]), **columns)
    assert "must hold image_ids [n], classes [n, k]" in refusal(written, capsys, *arguments)
    path.write_bytes(b"PK")
    assert "cannot be read" in refusal(written, capsys, *arguments)


def test_a_row_of_a_label_file_that_cannot_be_read_is_named(written, capsys):
    with open(written.folder / "truth.csv", "a") as file:
        file.write('image-9,9.jpg,"red\n')
    error = refusal(written, capsys, *written.dense(), *written.label_files())
    assert "truth.csv:32:" in error


def test_labels_outside_the_class_list_are_counted_aloud(written, capsys):
    with open(written.folder / "truth.csv", "a") as file:
        file.write("image-4,4.jpg,ultraviolet\n")
    written.report(*written.dense(), *written.label_files())
    assert "1 labels of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--predictions=a.npy", "--workdir=b"], "one of them"),
        ([], "--workdir, --model, --predictions or the folder of a --checkpoint"),
        (["--predictions=a.npy", "--output=c"], "--data or --labels"),
        (["--predictions=a.npy", "--labels=b.csv"], "--output"),
        (["--predictions=a.npy", "--labels=b.csv", "--output=c"], "--classes must"),
        (["--workdir=a"], "a network needs --data"),
        (["--model=a.keras", "--data=b"], "it takes --output"),
        (["--model=a", "--watch"], "--watch is for --workdir alone"),
        (["--model=a", "--parameters=raw"], "--parameters is for --workdir or --checkpoint alone"),
        (["--model=a", "--labels=b.csv"], "--labels is for --predictions alone"),
        (["--model=a.keras", "--score_space=logits"], "for a SavedModel alone"),
        (["--workdir=a", "--labels=b.csv"], "--labels is for --predictions alone"),
        (["--workdir=a", "--ids=b.txt"], "--ids is for --predictions alone"),
        (["--workdir=a", "--score_space=logits"], "is for --model or --predictions alone"),
        (["--workdir=a", "--classes=b.tsv"], "--checkpoint or --model or --predictions alone"),
        (["--workdir=a", "--checkpoint=10", "--class_counts=b"], "--class_counts is for"),
        (["--checkpoint=a/step-10", "--watch"], "--watch is for --workdir alone"),
        (["--predictions=a.npz", "--ids=b.txt"], "--ids is for .npy files alone"),
        (["--predictions=a.npz", "--output=c", "--labels=b", "--split=test"], "for --data alone"),
    ],
)
def test_flags_that_do_not_fit_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        evaluate.main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
