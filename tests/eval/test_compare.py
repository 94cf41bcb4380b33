"""Comparing evaluations: paired, without a network, refused where they are of other things."""

import json
import math

import numpy as np
import pytest
import slow_reference
from sklearn.metrics import average_precision_score
from tiny_run import CLASSES

from eval import compare, comparison, evaluate
from pipeline.labels import write_class_counts

KEYS = CLASSES.classes
NUM_IMAGES = 200


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three evaluations of the same images: noisy scores, better ones, and the first once more."""
    folder = tmp_path_factory.mktemp("compared")
    rng = np.random.default_rng(0)
    truth = rng.random((NUM_IMAGES, 4)) < [0.4, 0.3, 0.2, 0]
    noise = rng.normal(size=truth.shape).astype(np.float32)
    scores = {"worse": noise + truth, "better": noise * 0.3 + truth, "again": noise + truth}
    lines = [
        f"image-{row},{'|'.join(KEYS[c] for c in np.flatnonzero(truth[row]))}"
        for row in range(NUM_IMAGES)
    ]
    (folder / "truth.csv").write_text("\n".join(["image_path,labels", *lines]) + "\n")
    CLASSES.write(folder / "classes.tsv")
    write_class_counts(folder / "counts.tsv", CLASSES, np.array([4, 3, 2, 1]))
    (folder / "weights.tsv").write_text("class\tweight\nred\t1\ngreen\t2\nblue\t3\nnone\t4\n")
    for name, values in scores.items():
        order = rng.permutation(NUM_IMAGES)
        np.save(folder / f"{name}.npy", values[order].astype(np.float32))
        (folder / f"{name}.txt").write_text("".join(f"image-{row}\n" for row in order))
        assert evaluate_one(folder, name) == 0
    return folder, truth, scores


def evaluate_one(folder, name, output=None, weights="weights.tsv"):
    return evaluate.main(
        [
            f"--predictions={folder / name}.npy",
            f"--ids={folder / name}.txt",
            f"--classes={folder / 'classes.tsv'}",
            f"--labels={folder / 'truth.csv'}",
            f"--class_weights={folder / weights}",
            f"--class_counts={folder / 'counts.tsv'}",
            f"--output={folder / (output or name)}",
        ]
    )


def test_a_better_run_is_said_to_be_better_and_by_how_much(folders, tmp_path, capsys):
    folder, truth, scores = folders
    runs = [str(folder / "worse"), str(folder / "better")]
    assert compare.main([*runs, f"--output={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "compare.json").read_text())

    means = {
        name: np.average(
            [average_precision_score(truth[:, c], scores[name][:, c]) for c in range(3)],
            weights=[1, 2, 3],
        )
        for name in ("worse", "better")
    }
    headline = found["differences"][0]["map_at_100"]
    difference = means["better"] - means["worse"]
    assert headline["difference"] == pytest.approx(difference, rel=1e-9)
    assert headline["relative_improvement"] == pytest.approx(difference / means["worse"], rel=1e-9)
    assert headline["interval"][0] > 0
    assert "is better than" in found["differences"][0]["verdict"]
    assert f"{difference:+.4f}" in printed
    page = (tmp_path / "compare.html").read_text()
    assert "is better than" in page
    assert "http" not in page

    gains = found["differences"][0]["gained_most"]
    parts = {gain["class"]: gain["contribution"] for gain in gains}
    assert math.fsum(parts.values()) == pytest.approx(difference, rel=1e-9)
    assert list(parts.values()) == sorted(parts.values(), reverse=True)


def test_the_paired_error_is_that_of_the_difference_image_by_image(folders):
    folder, truth, scores = folders
    runs = [comparison.read(str(folder / name)) for name in ("worse", "better")]
    found = comparison.compare(runs)["differences"][0]["map_at_100"]
    labels = [np.flatnonzero(row).tolist() for row in truth]
    changes = {}
    for run, sign in zip(runs, (-1, 1), strict=True):
        for image_id, value in zip(run.influence.image_ids, run.influence.weighted, strict=True):
            changes[image_id] = changes.get(image_id, 0) + sign * value
    assert found["standard_error"] == pytest.approx(
        math.sqrt(sum(change**2 for change in changes.values())), rel=1e-12
    )
    for image in range(0, NUM_IMAGES, 20):  # some images' derivatives, by the slow reference
        moved = {}
        for name in ("worse", "better"):
            rows = scores[name].astype(np.float32).tolist()
            means = []
            for step in (1e-6, -1e-6):
                times = [1.0] * NUM_IMAGES
                times[image] += step
                mean = slow_reference.mean_class_ap(rows, labels, [1, 2, 3, 4], 100, times)
                means.append(float(mean))
            moved[name] = (means[0] - means[1]) / 2e-6
        change = moved["better"] - moved["worse"]
        assert changes[f"image-{image}"] == pytest.approx(change, abs=1e-8)


def test_the_same_scores_cannot_be_told_apart_whatever_the_order_of_images(folders, capsys):
    folder, _, _ = folders
    assert compare.main([str(folder / "worse"), str(folder / "again")]) == 0
    printed = capsys.readouterr().out
    assert "cannot be told apart" in printed
    assert "+0.0000" in printed


def test_a_folder_of_a_run_means_its_only_evaluation(folders, tmp_path, capsys):
    folder, _, _ = folders
    (tmp_path / "run/eval").mkdir(parents=True)
    (tmp_path / "run/eval/eval").symlink_to(folder / "better")
    assert compare.main([str(folder / "worse"), str(tmp_path / "run")]) == 0
    assert "is better than" in capsys.readouterr().out


def refusal(capsys, *runs):
    assert compare.main([str(run) for run in runs]) == 2
    return capsys.readouterr().err


def test_evaluations_of_other_things_are_refused(folders, tmp_path, capsys):
    folder, _, _ = folders
    assert "no report.json" in refusal(capsys, folder / "worse", tmp_path)
    (folder / "other.tsv").write_text("class\tweight\nred\t1\ngreen\t1\nblue\t1\nnone\t1\n")
    assert evaluate_one(folder, "better", output="weighted", weights="other.tsv") == 0
    capsys.readouterr()
    error = refusal(capsys, folder / "worse", folder / "weighted")
    assert "class_weights_sha256 differ" in error
    report = json.loads((folder / "weighted/report.json").read_text())
    (folder / "weighted" / f"step-{report['step']:08d}.influence.npz").unlink()
    assert "holds no whole evaluation" in refusal(capsys, folder / "weighted", folder / "worse")


def test_one_run_is_not_compared(capsys):
    with pytest.raises(SystemExit):
        compare.main(["a"])
    assert "two runs or more" in capsys.readouterr().err
