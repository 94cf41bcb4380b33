"""Bulk inference on Beam's engines: the report of eval.evaluate to the bit, and predictions."""

import json
import os
import subprocess
import sys
import time

import folder_store
import psutil
import pytest
from pyarrow import parquet
from test_engines import Engine, bucket, end  # noqa: F401
from tiny_run import CLASSES, save_checkpoint

import eval
from eval import beam_job, evaluate

REPOSITORY = os.path.dirname(os.path.dirname(eval.__file__))


@pytest.fixture
def evaluated(folder, network):
    """The folder, with a checkpoint whose scores differ between classes, evaluated as usual."""
    save_checkpoint(folder / "run", network, step=30, noise=0.1)
    assert evaluate.main([*inputs(folder), f"--output={folder / 'expected'}"]) == 0
    return folder


def inputs(folder):
    return [f"--workdir={folder / 'run'}", f"--data={folder / 'data'}", "--split=eval"]


def command(folder, *more):
    return [*inputs(folder), f"--output={folder / 'bulk'}", "--batch_size=7", *more]


def check(folder):
    """The report and the examples are those of eval.evaluate; the predictions are in order."""
    reports = [
        json.loads((folder / name / "report.json").read_text()) for name in ("expected", "bulk")
    ]
    for report in reports:
        del report["written"], report["seconds"]
    assert reports[0] == reports[1]
    examples = [(folder / name / "examples.json").read_text() for name in ("expected", "bulk")]
    assert examples[0] == examples[1]
    assert not (folder / "bulk/parts").exists()
    rows = parquet.read_table(folder / "bulk/predictions.parquet").to_pylist()
    assert sorted(row["image_id"] for row in rows) == sorted(f"image-{n}" for n in range(30))
    for row in rows:
        assert row["scores"] == sorted(row["scores"], reverse=True)


def test_the_embedded_runner_gives_the_same_report_and_predictions_that_evaluate_reads(evaluated):
    assert beam_job.main(command(evaluated)) == 0
    check(evaluated)

    again = evaluated / "again"
    path = evaluated / "bulk/predictions.parquet"
    flags = [f"--predictions={path}", f"--data={evaluated / 'data'}", "--score_space=logits"]
    assert evaluate.main([*flags, "--split=eval", f"--output={again}"]) == 0
    expected = json.loads((evaluated / "expected/report.json").read_text())
    found = json.loads((again / "report.json").read_text())
    assert found["metrics"]["map_at_100"] == expected["metrics"]["map_at_100"]
    assert found["classes"]["average_precision"] == expected["classes"]["average_precision"]


def test_an_output_that_is_no_local_folder_gets_the_same(evaluated, capsys):
    address = f"{folder_store.SCHEME}://{evaluated / 'bulk'}"
    assert beam_job.main([*command(evaluated), f"--output={address}"]) == 0
    assert f"{address}/predictions.parquet\n{address}/report.json\n" in capsys.readouterr().out
    assert not list(evaluated.glob("bulk/parts/*"))
    assert not list(evaluated.rglob("*.tmp"))
    (evaluated / "bulk/parts").rmdir()  # a store has no folders
    check(evaluated)
    written = {path.name: path.read_bytes() for path in (evaluated / "bulk").iterdir()}
    assert beam_job.main([*command(evaluated, "--checkpoint=20"), f"--output={address}"]) == 0
    lines = (evaluated / "bulk/history.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 2  # the second beside the first
    assert lines[1] == written["history.jsonl"]


def test_only_so_many_predictions_are_written_as_are_asked_for(evaluated):
    assert beam_job.main(command(evaluated, "--top=2")) == 0
    rows = parquet.read_table(evaluated / "bulk/predictions.parquet").to_pylist()
    assert all(len(row["classes"]) == 2 and set(row["classes"]) < set(CLASSES.classes)
               for row in rows)  # fmt: skip
    check(evaluated)  # the report looks at all of them


def test_what_is_wrong_with_the_inputs_is_said_in_words(folder, capsys):
    path = folder / "data/images-eval.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-10])
    assert beam_job.main(command(folder)) == 2
    error = capsys.readouterr().err
    assert "eval.beam_job: The shards of split 'eval'" in error
    assert "Traceback" not in error


def test_a_checkpoint_that_cannot_be_read_now_ends_the_job_with_75(folder, capsys):
    newest = max((folder / "run/checkpoints").iterdir())
    (newest / "ema.safetensors").unlink()
    (newest / "ema.safetensors").symlink_to("/proc/self/mem")  # EIO: nothing is at address 0
    assert beam_job.main(command(folder)) == 75
    error = capsys.readouterr().err
    assert "ema.safetensors cannot be read now: Input/output error" in error
    assert "Traceback" not in error


def test_flags_that_nobody_knows_are_refused(folder, capsys):
    assert beam_job.main(command(folder, "--runer=FlinkRunner")) == 2
    assert "--runer" in capsys.readouterr().err


def run(folder, *more, **environment):
    """The command in a process of its own, as (exit code, its output on stderr)."""
    finished = subprocess.run(
        [sys.executable, "-m", "eval.beam_job", *command(folder, *more)],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return finished.returncode, finished.stderr


@pytest.mark.slow
def test_two_worker_processes_give_the_same(evaluated):
    code, error = run(evaluated, "--workers=2")
    assert code == 0, error
    check(evaluated)


@pytest.mark.slow
def test_two_worker_processes_write_the_same_into_an_object_store(evaluated, bucket):  # noqa: F811
    output = "--output=s3://photographs/bulk"
    code, error = run(evaluated, "--workers=2", output, **bucket.environment)
    assert code == 0, error
    (evaluated / "bulk").mkdir()
    names = bucket.names("bulk/")
    assert not [name for name in names if name.startswith("parts/") or name.endswith(".tmp")]
    for name in names:
        (evaluated / "bulk" / name).write_bytes(bucket.read(f"bulk/{name}"))
    check(evaluated)
    assert b"<html" in bucket.read("bulk/report.html")


@pytest.mark.slow
def test_the_portable_runner_gives_the_same(evaluated, tmp_path_factory):
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        code, error = run(evaluated, *engine.flags)
    assert code == 0, error
    check(evaluated)


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_job_with_75(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.beam_job", *command(folder, "--workers=2")],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        workers = []
        while len(workers) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            children = psutil.Process(process.pid).children(recursive=True)
            workers = [child for child in children if "pipeline.worker" in child.cmdline()]
            time.sleep(0.05)
        workers[0].kill()
        _, error = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 75, error
    assert "a worker process died" in error
    assert "Traceback" not in error
