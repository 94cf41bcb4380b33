"""Watching a run: each checkpoint once, through deletion, restart, damage and silence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tiny_run import save_checkpoint

from eval import evaluate, watch
from eval.evaluation_set import EvaluationSet
from eval.evaluator import RunEvaluator
from eval.results import Results
from eval.surroundings import Surroundings
from model import checkpoint
from model.config import ConfigError
from pipeline import storage


def watch_run(folder):
    evaluation_set = EvaluationSet.read(str(folder / "data"), "eval", None)
    evaluator = RunEvaluator(str(folder / "run"), evaluation_set)
    results = Results(folder / "run/eval/eval")
    return watch.watch(evaluator, results, Surroundings(folder / "run"), timeout=60)


def end_training(folder):
    (folder / "run/completed.json").write_text('{"step": 20, "samples": 640, "seconds": 1.0}\n')


def evaluated_steps(out):
    return [int(line.split()[1]) for line in out.splitlines() if line.startswith("step")]


def history_steps(folder):
    lines = (folder / "run/eval/eval/history.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_the_newest_checkpoint_comes_first_and_each_once(folder, capsys):
    end_training(folder)
    report = watch_run(folder)
    assert evaluated_steps(capsys.readouterr().out) == [20, 10]
    assert report["step"] == 20
    assert history_steps(folder) == [10, 20]
    assert json.loads((folder / "run/eval/eval/report.json").read_text())["step"] == 20

    watch_run(folder)
    assert evaluated_steps(capsys.readouterr().out) == []


def test_a_restart_goes_on_where_it_stopped(folder, network, capsys):
    end_training(folder)
    watch_run(folder)
    save_checkpoint(folder / "run", network, step=30)
    (folder / "run/eval/eval/report.html").unlink()  # as if it had been killed before this file
    capsys.readouterr()
    assert watch_run(folder)["step"] == 30
    assert evaluated_steps(capsys.readouterr().out) == [30]
    assert (folder / "run/eval/eval/report.html").exists()


def test_a_step_that_was_trained_anew_is_evaluated_anew(folder, network, capsys):
    end_training(folder)
    watch_run(folder)
    shutil.rmtree(folder / "run/checkpoints/step-00000010")
    save_checkpoint(folder / "run", network, step=10, offset=0.01)
    capsys.readouterr()
    watch_run(folder)
    assert evaluated_steps(capsys.readouterr().out) == [10]


def test_checkpoints_that_come_while_it_watches_are_evaluated(folder, network, capsys):
    def train():
        time.sleep(1)
        save_checkpoint(folder / "run", network, step=30)
        end_training(folder)

    thread = threading.Thread(target=train)
    thread.start()
    watch_run(folder)
    thread.join()
    assert sorted(evaluated_steps(capsys.readouterr().out)) == [10, 20, 30]


def test_a_checkpoint_that_is_deleted_before_it_is_read_is_passed_over(folder, monkeypatch, capsys):
    end_training(folder)
    evaluate_now = RunEvaluator.evaluate

    def evaluate_too_late(evaluator, candidate):
        if candidate.step == 20:
            shutil.rmtree(candidate.path)
        return evaluate_now(evaluator, candidate)

    monkeypatch.setattr(RunEvaluator, "evaluate", evaluate_too_late)
    assert watch_run(folder)["step"] == 10
    captured = capsys.readouterr()
    assert evaluated_steps(captured.out) == [10]
    assert "step 20 passed over: deleted meanwhile" in captured.err


def test_a_checkpoint_that_cannot_be_read_now_is_evaluated_by_the_next_start(folder, capsys):
    end_training(folder)
    file = folder / "run/checkpoints/step-00000020/ema.safetensors"
    data = file.read_bytes()
    file.unlink()
    file.symlink_to("/proc/self/mem")  # nothing is mapped at address 0: EIO, for root too
    with pytest.raises(checkpoint.UnreachableError, match="Input/output error"):
        watch_run(folder)
    file.unlink()
    file.write_bytes(data)
    watch_run(folder)
    assert evaluated_steps(capsys.readouterr().out) == [20, 10]


def test_checkpoints_that_are_damaged_or_diverged_are_passed_over(folder, network, capsys):
    save_checkpoint(folder / "run", network, step=30, offset=np.nan)
    path = folder / "run/checkpoints/step-00000020/ema.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    end_training(folder)
    assert watch_run(folder)["step"] == 10
    error = capsys.readouterr().err
    assert "step 30 passed over" in error
    assert "diverged" in error
    assert "step 20 passed over" in error
    assert "damaged" in error


def kept(folder):
    """The folders in `best`, with what their checkpoint says of itself."""
    best = folder / "run/eval/eval/best"
    return {path.name: checkpoint.read_state(path)["step"] for path in best.iterdir()}


def test_the_best_checkpoint_stays_when_the_trainer_deletes_it(folder, network):
    save_checkpoint(folder / "run", network, step=15, noise=3.0)
    end_training(folder)
    watch_run(folder)
    history = [
        json.loads(line)
        for line in (folder / "run/eval/eval/history.jsonl").read_text().splitlines()
    ]
    values = {line["step"]: line["map_at_100"] for line in history}
    assert values[10] == values[20] != values[15]
    best = 15 if values[15] > values[10] else 10  # of equal ones the earlier
    assert kept(folder) == {f"step-{best:08d}": best}

    original = folder / f"run/checkpoints/step-{best:08d}"
    copy = folder / f"run/eval/eval/best/step-{best:08d}"
    assert os.path.samefile(original / "ema.safetensors", copy / "ema.safetensors")  # a link
    shutil.rmtree(original)
    watch_run(folder)
    checkpoint.load(copy)  # whole, with the sha256 of each file


def test_the_best_checkpoint_is_kept_also_when_it_is_deleted_while_it_is_evaluated(
    folder, monkeypatch
):
    end_training(folder)
    shutil.rmtree(folder / "run/checkpoints/step-00000010")
    evaluate_checkpoint = RunEvaluator.evaluate

    def evaluate_and_delete(evaluator, candidate):
        evaluation = evaluate_checkpoint(evaluator, candidate)
        shutil.rmtree(candidate.path)
        return evaluation

    monkeypatch.setattr(RunEvaluator, "evaluate", evaluate_and_delete)
    assert watch_run(folder)["step"] == 20
    assert kept(folder) == {"step-00000020": 20}
    checkpoint.load(folder / "run/eval/eval/best/step-00000020")


def test_without_links_the_best_checkpoint_is_copied(folder, monkeypatch):
    def no_link(source, target):
        raise OSError("links are not supported here")

    monkeypatch.setattr(os, "link", no_link)
    end_training(folder)
    watch_run(folder)
    assert kept(folder) == {"step-00000010": 10}  # both are alike: the earlier
    checkpoint.load(folder / "run/eval/eval/best/step-00000010")


@pytest.fixture
def best_alone(folder):
    """The files of a watched run's best checkpoint, of which the trainer has kept none."""
    end_training(folder)
    watch_run(folder)
    shutil.rmtree(folder / "run/checkpoints/step-00000010")
    best = folder / "run/eval/eval/best"
    return lambda: {path: path.read_bytes() for path in best.rglob("*") if path.is_file()}


@pytest.mark.parametrize("watch_flags", [["--watch"], []])
def test_other_conditions_take_nothing_from_a_watched_folder(
    folder, best_alone, capsys, tmp_path, watch_flags
):
    before = best_alone()
    history = history_steps(folder)
    flags = [f"--workdir={folder / 'run'}", f"--data={folder / 'data'}", "--parameters=raw"]
    assert evaluate.main([*flags, *watch_flags]) == 2
    error = capsys.readouterr().err
    assert "parameters: 'ema' there, 'raw' now" in error
    assert "--output" in error
    assert best_alone() == before
    assert history_steps(folder) == history
    assert evaluate.main([*flags, *watch_flags, f"--output={tmp_path / 'raw'}"]) == 0
    assert best_alone() == before


def test_two_watches_do_not_share_a_folder(folder, capsys):
    end_training(folder)
    with storage.lock(str(folder / "run/eval/eval/watched.lock")):  # as the other one holds it
        assert evaluate.main(arguments(folder)) == 2
    assert "Another --watch writes into" in capsys.readouterr().err
    assert evaluate.main(arguments(folder)) == 0


def test_tensorboard_gets_every_metric_at_its_step(folder):
    import tensorflow as tf

    end_training(folder)
    watch_run(folder)
    found = {}
    for path in (folder / "run/eval/eval/tensorboard").iterdir():
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    for step in (10, 20):
        report = json.loads((folder / f"run/eval/eval/step-{step:08d}.json").read_text())
        metrics = report["metrics"]
        expected = {f"eval/eval/{name}": metric["value"] for name, metric in metrics.items()}
        low, high = metrics["map_at_100"]["interval"]
        expected |= {"eval/eval/map_at_100_low": low, "eval/eval/map_at_100_high": high}
        written = {tag: value for (at, tag), value in found.items() if at == step}
        assert written == pytest.approx(expected, rel=1e-6)


def test_what_an_older_format_shows_is_evaluated_anew(folder, capsys):
    end_training(folder)
    watch_run(folder)
    path = folder / "run/eval/eval/report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 1}))
    capsys.readouterr()
    watch_run(folder)
    assert evaluated_steps(capsys.readouterr().out) == [20]


def arguments(folder, *more):
    return [
        f"--workdir={folder / 'run'}",
        f"--data={folder / 'data'}",
        "--split=eval",
        "--watch",
        *more,
    ]


def test_training_that_ends_without_a_usable_checkpoint_is_an_error(folder, capsys):
    shutil.rmtree(folder / "run/checkpoints")
    end_training(folder)
    assert evaluate.main(arguments(folder)) == 2
    said = capsys.readouterr().err
    assert "no usable checkpoint" in said
    assert f"waiting for the first checkpoint of {folder / 'run'}" in said


def test_silence_ends_the_watch_and_says_what_it_waited_for(folder, capsys):
    shutil.rmtree(folder / "run/checkpoints")
    assert evaluate.main(arguments(folder, "--watch_timeout=0.1")) == 75
    assert "No new checkpoint" in capsys.readouterr().err
    shutil.rmtree(folder / "run")
    assert evaluate.main(arguments(folder, "--watch_timeout=0.1")) == 75
    error = capsys.readouterr().err
    assert "for a training run to appear" in error
    assert "config.toml" in error


def test_a_dataset_that_is_not_there_is_refused_before_it_waits_for_training(folder, capsys):
    shutil.rmtree(folder / "run")
    shutil.rmtree(folder / "data")
    assert evaluate.main(arguments(folder)) == 2
    assert "no dataset folder" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_a_traceback(folder, number):
    shutil.rmtree(folder / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.evaluate", *arguments(folder)],
        stderr=subprocess.PIPE,
        text=True,
    )
    first_line = process.stderr.readline()
    assert "waiting for training to start" in first_line
    os.kill(process.pid, number)
    _, error = process.communicate(timeout=30)
    assert process.returncode == -number
    assert error == ""


def test_a_run_in_an_object_store_is_refused_instead_of_waited_for():
    with pytest.raises(ConfigError, match="cannot lie in an object store: az://container/run"):
        watch.wait_for_run("az://container/run", timeout=60)
