"""The command over real shards and real checkpoints: what it writes, prints and refuses."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from tiny_run import CLASSES, save_checkpoint, write_dataset

from eval import evaluate
from model import predict
from pipeline.labels import Vocabulary


def command(folder, *more):
    return [
        f"--workdir={folder / 'run'}",
        f"--data={folder / 'data'}",
        "--split=eval",
        *more,
    ]


def write_weights(folder, weights=(4, 3, 2, 1)):
    lines = [f"{key}\t{weight}" for key, weight in zip(CLASSES.classes, weights, strict=True)]
    path = folder / "weights.tsv"
    path.write_text("class\tweight\n" + "\n".join(lines) + "\n")
    return f"--class_weights={path}"


def test_the_report_equals_scikit_learn_on_the_predictions(folder, capsys):
    assert evaluate.main(command(folder, write_weights(folder), "--batch_size=7")) == 0
    printed = capsys.readouterr().out
    report = json.loads((folder / "run/eval/eval/report.json").read_text())

    predictor = predict.Predictor(folder / "run")
    predictor.load(report["checkpoint"])
    batches = list(predictor.predict(folder / "data", "eval"))
    logits = np.concatenate([batch.logits for batch in batches])
    truth = np.zeros(logits.shape, bool)
    for row, labels in enumerate([ids for batch in batches for ids in batch.labels]):
        truth[row, labels] = True
    expected = [average_precision_score(truth[:, c], logits[:, c]) for c in range(3)]

    np.testing.assert_allclose(report["classes"]["average_precision"][:3], expected, rtol=1e-12)
    assert report["classes"]["average_precision"][3] is None
    metrics = report["metrics"]
    mean = np.average(expected, weights=[4, 3, 2])
    assert metrics["map_at_100"]["value"] == pytest.approx(mean, rel=1e-12)
    # 8 of 30 images are positive for each of the three classes.
    assert metrics["prior_map_at_100"]["value"] == pytest.approx(8 / 30)
    assert f"{mean:.4f}" in printed
    assert f"{8 / 30:.4f}" in printed
    assert all(metric["definition"] for metric in metrics.values())


def test_the_report_says_what_it_was_computed_from(folder):
    assert evaluate.main(command(folder, write_weights(folder))) == 0
    report = json.loads((folder / "run/eval/eval/step-00000020.json").read_text())
    assert (report["step"], report["samples"], report["parameters"]) == (20, 640, "ema")
    assert (report["num_images"], report["num_classes"]) == (30, 4)
    assert report["num_classes_with_positives"] == 3
    assert report["labels_per_image"] == 24 / 30
    assert report["score_space"] == "logits float32"
    assert report["data_fingerprint"] == "of-the-test"
    assert len(report["class_weights_sha256"]) == 64
    assert report["versions"]["tensorflow"]


def test_without_weights_the_report_says_so(folder, capsys):
    assert evaluate.main(command(folder)) == 0
    assert "no class weights were given" in capsys.readouterr().out
    report = json.loads((folder / "run/eval/eval/report.json").read_text())
    metrics = report["metrics"]
    assert metrics["map_at_100"]["value"] == metrics["map_at_100_unweighted"]["value"]
    assert "no weights were given" in metrics["map_at_100"]["definition"]
    page = (folder / "run/eval/eval/report.html").read_text()
    assert "No class weights were given" in page


def test_a_step_can_be_chosen_and_the_output_put_elsewhere(folder):
    output = folder / "elsewhere"
    assert evaluate.main(command(folder, "--checkpoint=10", f"--output={output}")) == 0
    assert json.loads((output / "report.json").read_text())["step"] == 10
    assert (output / "report.html").exists()
    assert not (folder / "run/eval").exists()


def test_a_checkpoint_is_evaluated_alone_by_its_own_configuration(folder):
    assert evaluate.main(command(folder)) == 0
    expected = json.loads((folder / "run/eval/eval/report.json").read_text())
    shutil.move(folder / "run/checkpoints/step-00000020", folder / "alone")
    shutil.rmtree(folder / "run")
    arguments = [f"--checkpoint={folder / 'alone'}", f"--data={folder / 'data'}"]
    assert evaluate.main([*arguments, f"--output={folder / 'out'}"]) == 0
    found = json.loads((folder / "out/report.json").read_text())
    assert found["step"] == 20
    assert found["metrics"]["map_at_100"] == expected["metrics"]["map_at_100"]


def test_a_checkpoint_is_read_by_its_own_network_whatever_the_run_says_now(folder):
    assert evaluate.main(command(folder)) == 0
    expected = json.loads((folder / "run/eval/eval/report.json").read_text())
    path = folder / "run/config.toml"
    path.write_text(path.read_text().replace("width = 0.1", "width = 0.2"))
    assert evaluate.main(command(folder)) == 0
    found = json.loads((folder / "run/eval/eval/report.json").read_text())
    assert found["metrics"] == expected["metrics"]


def test_a_checkpoint_of_other_classes_is_refused_with_the_first_five_that_differ(folder, capsys):
    path = folder / "run/checkpoints/step-00000020/classes.tsv"
    Vocabulary(("blue", "green", "red", *"abcde"), ("",) * 8).write(path)
    error = refusal(capsys, command(folder))
    assert f"{path} lists 8 classes and {folder / 'data'} has 4; 7 places differ" in error
    assert "class 0: 'blue' and 'red'\n  class 2: 'red' and 'blue'\n" in error
    assert "class 5: 'c' and none\n" in error
    assert "class 6" not in error


def refusal(capsys, arguments, exit_code=2):
    assert evaluate.main(arguments) == exit_code
    error = capsys.readouterr().err
    assert error.startswith("eval.evaluate: ")
    return error


def test_a_folder_that_is_no_run_is_refused(folder, capsys):
    arguments = command(folder)
    arguments[0] = f"--workdir={folder / 'nowhere'}"
    assert "no folder of a training run" in refusal(capsys, arguments)


def test_a_split_that_is_not_there_is_refused(folder, capsys):
    assert "Completed splits: eval" in refusal(capsys, [*command(folder), "--split=test"])


def test_a_step_that_is_not_there_is_refused(folder, capsys):
    assert "There are: 10, 20" in refusal(capsys, command(folder, "--checkpoint=15"))


def test_a_run_on_other_classes_is_refused_with_the_first_differences(folder, capsys):
    other = Vocabulary(("red", "yellow", "blue"), ("", "", ""))
    write_dataset(folder / "data", vocabulary=other)
    error = refusal(capsys, command(folder))
    assert "4 classes" in error
    assert "class 1: 'green' and 'yellow'" in error
    assert "class 3: 'none' and none" in error


def test_a_split_without_a_weighted_positive_is_refused(folder, capsys):
    weights = write_weights(folder, (0, 0, 0, 1))
    assert "Nothing to average" in refusal(capsys, command(folder, weights))


def test_a_damaged_checkpoint_is_refused(folder, capsys):
    path = folder / "run/checkpoints/step-00000020/ema.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "is damaged" in refusal(capsys, command(folder))


def test_a_truncated_shard_is_refused(folder, capsys):
    path = folder / "data/images-eval.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-10])
    error = refusal(capsys, command(folder))
    assert "shards of split 'eval'" in error
    assert "cannot be read" in error


def test_shards_that_lost_a_record_are_refused(folder, capsys):
    (folder / "data/images-eval.tfrecord-00001-of-00002").write_bytes(b"")
    assert "hold 15 images, and its metadata says 30" in refusal(capsys, command(folder))


def test_parameters_that_diverged_are_refused_with_image_and_class(folder, network, capsys):
    save_checkpoint(folder / "run", network, step=30, offset=np.nan)
    error = refusal(capsys, command(folder))
    assert "gives NaN for class 'red' on image 'image-0'" in error


def test_help_needs_no_tensorflow():
    code = "import sys; from eval import evaluate; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size=0"], "--batch_size must be at least 1"),
        (["--watch", "--checkpoint=10"], "leave --checkpoint out"),
        (["--watch", "--watch_timeout=nan"], "--watch_timeout must be above 0"),
        (["--output=s3://bucket/eval"], "Received: s3://bucket/eval"),
    ],
)
def test_flags_that_make_no_sense_are_refused(folder, capsys, flags, message):
    with pytest.raises(SystemExit) as error:
        evaluate.main(command(folder, *flags))
    assert error.value.code == 2
    assert message in capsys.readouterr().err
