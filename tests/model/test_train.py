"""Training in one process: it learns, resumes, predicts, and says in words what is wrong."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from model import checkpoint, predict, run_folder, train
from model.parameter_store import ParameterStore
from pipeline import labels

SMALL = (
    "--preset=demo",
    "--set=network.width=0.1",
    "--set=network.middle_modules=0",
    "--set=input.batch_size=8",
    "--set=input.image_size=48",
    "--set=optimizer.learning_rate=0.001",
    "--set=train.steps_per_closure=2",
    "--set=train.checkpoint_every=2",
    "--set=train.log_every=0.1",
)


def _train(shards, run, *more):
    return train.main([*SMALL, f"--data={shards}", f"--workdir={run}", *more])


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A finished run of 3,200 images."""
    folder = tmp_path_factory.mktemp("run")
    assert _train(shards, folder, "--set=train.samples=3200") == 0
    return folder


def _metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_loss_falls(run):
    losses = [metrics["train/loss"] for metrics in _metrics(run)]
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third]) - 1.0  # from about 26 to about 23


def test_the_counters_say_what_was_trained(run):
    state = checkpoint.read_state(checkpoint.list_checkpoints(run)[-1].path)
    assert (state["step"], state["samples"]) == (400, 3200)
    assert json.loads((run / "completed.json").read_text())["samples"] == 3200


def test_the_thread_that_takes_the_steps_reads_the_checkpoints(shards, tmp_path, monkeypatch):
    export, threads = ParameterStore.export, []

    def noted(store):
        threads.append(threading.current_thread())
        return export(store)

    monkeypatch.setattr(ParameterStore, "export", noted)
    overrides = ("--set=train.samples=1600", "--set=train.checkpoint_every=0.05")
    assert _train(shards, tmp_path / "run", *overrides) == 0
    assert len(threads) > 2
    assert set(threads) == {threading.main_thread()}  # so all of one is of the same step


def test_a_loss_that_masks_all_negatives_of_the_data_is_refused(shards, tmp_path, capfd):
    assert _train(shards, tmp_path / "run", "--set=loss.unknown_weight=0") == 2
    assert "has no verified negatives" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_trained_again_and_keeps_its_configuration(run, shards, capfd):
    before, config = checkpoint.list_checkpoints(run), (run / "config.toml").read_text()
    assert _train(shards, run, "--set=train.samples=800", "--set=input.eval_crop=0.3") == 0
    assert "is trained already" in capfd.readouterr().err
    assert checkpoint.list_checkpoints(run) == before
    assert (run / "config.toml").read_text() == config
    assert (run / "completed.json").exists()


def test_more_samples_go_on_from_the_newest_checkpoint(shards, tmp_path, capfd):
    assert _train(shards, tmp_path, "--set=train.samples=160") == 0
    assert _train(shards, tmp_path, "--set=train.samples=320") == 0
    error = capfd.readouterr().err
    assert "Going on from step 20, 160 images" in error
    assert "train.samples: 320, was 160" in error
    assert checkpoint.list_checkpoints(tmp_path)[-1].step == 40


def test_a_damaged_newest_checkpoint_is_passed_over(shards, tmp_path, capfd):
    at_the_end = "--set=train.checkpoint_every=1000"
    assert _train(shards, tmp_path, "--set=train.samples=80", at_the_end) == 0
    assert _train(shards, tmp_path, "--set=train.samples=160", at_the_end) == 0
    newest = checkpoint.list_checkpoints(tmp_path)[-1]
    with open(f"{newest.path}/parameters.safetensors", "r+b") as file:
        file.truncate(1000)
    assert _train(shards, tmp_path, "--set=train.samples=240", at_the_end) == 0
    error = capfd.readouterr().err
    assert f"a checkpoint that cannot be used: {newest.path}/parameters.safetensors" in error
    assert "Going on from step 10, 80 images" in error
    assert [saved.step for saved in checkpoint.list_checkpoints(tmp_path)] == [10, 30]


@pytest.mark.parametrize("name", ["config.toml", "checkpoints/step-00000400/ema.safetensors"])
def test_a_file_of_the_run_that_cannot_be_read_now_ends_the_start_with_75_and_stays(
    run, shards, tmp_path, capfd, name
):
    copy = shutil.copytree(run, tmp_path / "run")
    before = checkpoint.list_checkpoints(copy)
    file = copy / name
    file.unlink()
    file.symlink_to("/proc/self/mem")  # nothing is mapped at address 0: EIO, for root too
    assert _train(shards, copy, "--set=train.samples=6400") == 75
    assert re.search(rf"{file} cannot be read.*: Input/output error", capfd.readouterr().err)
    assert checkpoint.list_checkpoints(copy) == before


def test_a_run_with_nothing_but_damaged_checkpoints_is_never_begun_anew(
    run, shards, tmp_path, capfd
):
    copy = shutil.copytree(run, tmp_path / "run")
    for saved in checkpoint.list_checkpoints(copy):
        (Path(saved.path) / "ema.safetensors").write_bytes(b"damaged")
    for _ in range(2):
        assert _train(shards, copy, "--set=train.samples=6400") == 2
        assert "step-00000400.refused. To go on" in capfd.readouterr().err


def test_a_checkpoint_whose_layers_have_other_names_is_refused_and_stays(
    run, shards, tmp_path, capfd
):
    copy = shutil.copytree(run, tmp_path / "run")
    state = checkpoint.load(checkpoint.list_checkpoints(copy)[-1].path)
    for kind in ("parameters", "ema", "mean_square", "momentum"):
        state[kind]["output/kernel"] = state[kind].pop("predictions/kernel")
    predictor = predict.Predictor(run)
    renamed = checkpoint.save(copy, {**state, "step": 401}, predictor.config, predictor.vocabulary)
    assert _train(shards, copy, "--set=train.samples=6400") == 2
    assert "step 401 is of another network: 2 of its parameters" in capfd.readouterr().err
    assert checkpoint.list_checkpoints(copy)[-1] == renamed


def test_another_network_is_refused_in_an_old_folder(run, shards, capfd):
    assert _train(shards, run, "--set=network.width=0.2") == 2
    assert "another network (network.width: 0.2, was 0.1)" in capfd.readouterr().err


def test_a_diverging_run_ends_with_advice_and_keeps_finite_checkpoints(shards, tmp_path, capfd):
    exit_code = _train(
        shards, tmp_path, "--set=optimizer.learning_rate=1e30", "--set=optimizer.warmup=0"
    )
    assert exit_code == 2
    assert "optimizer.learning_rate" in capfd.readouterr().err
    for saved in checkpoint.list_checkpoints(tmp_path):
        for value in checkpoint.load(saved.path, "raw").values():
            assert np.isfinite(value).all()


def test_a_run_killed_in_the_middle_goes_on_from_its_checkpoint(shards, tmp_path, capfd):
    command = [sys.executable, "-m", "model.train", *SMALL]
    command += [f"--data={shards}", f"--workdir={tmp_path}", "--set=train.samples=100000"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not checkpoint.list_checkpoints(tmp_path):
            assert time.monotonic() < deadline, "no checkpoint within 120 s"
            time.sleep(0.1)
        assert _train(shards, tmp_path) == 2  # the folder is taken
        assert f"Another process trains into {tmp_path}" in capfd.readouterr().err
    finally:
        process.kill()
        process.wait()
    reached = checkpoint.list_checkpoints(tmp_path)[-1].step
    assert _train(shards, tmp_path, f"--set=train.samples={(reached + 10) * 8}") == 0
    assert checkpoint.list_checkpoints(tmp_path)[-1].step == reached + 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=/nowhere"], "/nowhere"),
        (["--split=test"], "has no split 'test'"),
        (["--set=network.name=resnet"], "There is no network 'resnet'"),
        (["--preset=jtf"], "Did you mean 'jft'"),
        (["--workdir=s3://bucket/run"], "cannot lie in an object store: s3://bucket/run"),
    ],
)
def test_wrong_usage_ends_with_one_message_and_code_2(shards, tmp_path, capfd, arguments, message):
    assert _train(shards, tmp_path, *arguments) == 2
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_folder_that_cannot_be_written_ends_with_one_message_and_code_2(shards, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert _train(shards, tmp_path / "file" / "run") == 2
    error = capfd.readouterr().err
    assert "Not a directory" in error
    assert "Traceback" not in error


def test_damaged_records_are_left_out_up_to_the_limit(shards, tmp_path, capfd):
    copy, run = tmp_path / "shards", tmp_path / "run"
    shutil.copytree(shards, copy)
    for shard in copy.glob("images-train*"):
        data = bytearray(shard.read_bytes())
        data[3000:3003] = b"bad"
        shard.write_bytes(data)
    assert _train(copy, run, "--set=input.max_damaged_records=2", "--set=train.samples=1600") == 2
    error = capfd.readouterr().err
    assert re.search(r"1 in \S+ at byte \d+, and 2 before; input.max_damaged_records is 2", error)
    assert "Traceback" not in error
    assert _train(copy, run, "--set=train.samples=1600") == 0
    assert _metrics(run)[-1]["input/damaged_records"] == 3
    assert len((run / "damaged_records.tsv").read_text().splitlines()) == 1 + 3


def test_a_shard_that_is_gone_while_training_is_named(shards, tmp_path, capfd, monkeypatch):
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    write = run_folder.write

    def write_and_lose_a_shard(*arguments):
        write(*arguments)  # after the shards were looked for
        next(copy.glob("images-train*00001-of*")).unlink()

    monkeypatch.setattr(run_folder, "write", write_and_lose_a_shard)
    assert _train(copy, tmp_path / "run") == 2
    error = capfd.readouterr().err
    assert re.search(r"gone: \S*images-train.tfrecord-00001-of-00003; No such file", error)
    assert "Traceback" not in error


def test_softmax_over_images_with_several_labels_ends_with_one_of_them(shards, tmp_path, capfd):
    assert _train(shards, tmp_path, "--set=loss.name=softmax_cross_entropy") == 2
    error = capfd.readouterr().err
    explained = r"exactly one label\. Received: images/train/\d+\.jpg with \d+ labels\. Choose"
    assert re.search(explained, error)
    assert "Traceback" not in error


def test_another_loss_and_optimizer_train_and_go_on_from_a_checkpoint(shards, tmp_path, capfd):
    recipe = (
        "--set=train.steps_per_closure=1",
        "--set=optimizer.name=sgd",
        "--set=loss.name=asymmetric",
        "--set=loss.unknown_weight=0.5",
        "--set=loss.confidence=weight",
    )
    assert _train(shards, tmp_path, *recipe, "--set=train.samples=80") == 0
    assert _train(shards, tmp_path, *recipe, "--set=train.samples=160") == 0
    assert "Going on from step 10, 80 images" in capfd.readouterr().err
    state = checkpoint.load(checkpoint.list_checkpoints(tmp_path)[-1].path)
    assert state["step"] == 20
    assert state["mean_square"] == {}
    assert any(momentum.any() for momentum in state["momentum"].values())


def test_help_is_there_before_tensorflow_is():
    code = "import sys, model.train; model.train.main(['--help'])"
    check = "import atexit, sys; atexit.register(lambda: print('tensorflow' in sys.modules)); "
    result = subprocess.run(
        [sys.executable, "-c", check + code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert "example: python -m model.train" in result.stdout
    assert result.stdout.endswith("False\n")


def test_predictions_cover_the_split_and_match_the_network_in_keras(run, shards):
    predictor = predict.Predictor(run)
    newest = checkpoint.list_checkpoints(run)[-1]
    predictor.load(newest.path)
    batches = list(predictor.predict(shards, "eval", batch_size=25))
    assert [len(batch.image_ids) for batch in batches] == [25, 25, 10]
    assert len({image_id for batch in batches for image_id in batch.image_ids}) == 60
    assert all(batch.logits.shape == (len(batch.images), 191) for batch in batches)
    assert (predictor.step, predictor.samples) == (400, 3200)

    averaged = np.concatenate([batch.logits for batch in batches])
    predictor.load(newest.path, "raw")
    raw = np.concatenate([batch.logits for batch in predictor.predict(shards, "eval")])
    assert averaged.shape == raw.shape
    assert not np.allclose(averaged, raw)


def test_a_checkpoint_of_another_class_list_is_refused(run, tmp_path):
    predictor = predict.Predictor(run)
    state = checkpoint.load(checkpoint.list_checkpoints(run)[-1].path)
    others = labels.Vocabulary(("another",), ("list",))
    foreign = checkpoint.save(tmp_path, state, predictor.config, others)
    with pytest.raises(checkpoint.CheckpointError, match="another class list"):
        predictor.load(foreign.path)
