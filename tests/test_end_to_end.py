"""The whole road, as `make demo` takes it, with a shorter training."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks import end_to_end

TIMEOUT = 400.0  # seconds


def _demo(output):
    return [
        *(sys.executable, "-m", "benchmarks.end_to_end", "demo", f"--output={output}"),
        *("--set", "train.samples=6400", "--set", "train.checkpoint_every=5"),
    ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(output folder, finished process) of a demo that ran to its end."""
    output = tmp_path_factory.mktemp("demo")
    finished = subprocess.run(_demo(output), capture_output=True, text=True, timeout=TIMEOUT)
    return output, finished


@pytest.mark.slow
def test_the_demo_learns_more_than_the_prior_and_makes_a_page(demo):
    output, finished = demo
    assert finished.returncode == 0, finished.stderr
    report = json.loads((output / "run" / "eval" / "eval" / "report.json").read_text())
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    headline = values[report["headline"]]
    prior = next(value for name, value in values.items() if "prior" in name)
    assert headline > 2 * prior
    assert f"{headline:.4f}" in finished.stdout
    assert (output / "run" / "eval" / "eval" / "report.html").stat().st_size > 50_000
    assert "Traceback" not in finished.stderr


@pytest.mark.slow
def test_the_demo_prints_the_commands_that_it_runs(demo):
    commands = [line for line in demo[1].stderr.splitlines() if line.startswith("$ python ")]
    assert [command.split()[2:4] for command in commands] == [
        ["-m", "pipeline.synthetic"],
        ["beam_runner.py", "--source=manifest"],
        ["beam_runner.py", "--source=manifest"],
        ["-m", "model.launch"],
        ["-m", "eval.evaluate"],
    ]


@pytest.mark.slow
def test_the_demo_started_again_reuses_what_is_done(demo):
    output, _ = demo
    again = subprocess.run(_demo(output), capture_output=True, text=True, timeout=TIMEOUT)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is already complete") == 2
    assert "is trained already" in again.stderr
    assert "are evaluated already" in again.stderr


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_of_the_demo(tmp_path):
    log_path = tmp_path / "log"
    with open(log_path, "wb") as log:
        running = subprocess.Popen(_demo(tmp_path), stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert running.poll() is None, log_path.read_text()
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.2)
        family = psutil.Process(running.pid).children(recursive=True)
        assert len(family) >= 6  # launcher, chief, ps, two workers, evaluator
        os.killpg(running.pid, signal.SIGINT)  # what a terminal does
        assert running.wait(60) == 130
        _, alive = psutil.wait_procs(family, timeout=20)
        assert alive == []
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    assert "Traceback" not in log_path.read_text()


def test_images_of_the_grocery_store_have_their_class_its_coarse_class_and_the_uppermost(tmp_path):
    store = tmp_path / "dataset"
    for path in (
        "train/Fruit/Apple/Pink-Lady/Pink-Lady_001.jpg",
        "train/Vegetables/Brown-Cap-Mushroom/1.jpg",
        "test/Fruit/Banana/Banana_001.jpg",
        "val/Fruit/Banana/Banana_002.jpg",
    ):
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).touch()
    (store / "classes.csv").write_text(
        "Class Name (str),Class ID (int),Coarse Class Name (str)\n"
        "Pink-Lady,0,Apple\nBanana,1,Banana\nBrown-Cap-Mushroom,2,Mushroom\n"
    )
    end_to_end.write_grocery_manifests(store, tmp_path / "manifests")
    assert (tmp_path / "manifests/train.csv").read_text().splitlines() == [
        "image_path,labels",
        "train/Fruit/Apple/Pink-Lady/Pink-Lady_001.jpg,Apple|Fruit|Pink-Lady",
        "train/Vegetables/Brown-Cap-Mushroom/1.jpg,Brown-Cap-Mushroom|Mushroom|Vegetables",
    ]
    assert (tmp_path / "manifests/eval.csv").read_text().splitlines() == [
        "image_path,labels",
        "test/Fruit/Banana/Banana_001.jpg,Banana|Fruit",
    ]
    assert (tmp_path / "manifests/classes.tsv").read_text().split() == [
        *("class", "Apple", "Banana", "Brown-Cap-Mushroom"),
        *("Fruit", "Mushroom", "Pink-Lady", "Vegetables"),
    ]
