"""Training and evaluation from an object store, with real clients, clusters and processes."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

from benchmarks.fault_rows import TIMEOUT
from benchmarks.object_store import ObjectStore, taken
from benchmarks.process_faults import Training
from eval import evaluate
from eval.evaluation_set import EvaluationSet
from model import config as config_module
from model import input as input_module
from model import train
from model.shard_cache import NUM_OPEN, FetchError
from pipeline import metadata

NUM_SHARDS = 70
DATA = "s3://bucket/shards"


@pytest.fixture(scope="session")
def store(shards, tmp_path_factory):
    """Serves the dataset of the other tests; one server, since clients stay connected to it."""
    root = tmp_path_factory.mktemp("bucket")
    (root / "shards").symlink_to(shards)
    with ObjectStore(root) as store, pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        yield store


def test_what_a_dataset_says_of_itself_is_read_from_a_store(store, shards):
    here, there = metadata.load_split(shards, "train"), metadata.load_split(DATA, "train")
    assert metadata.load_vocabulary(DATA) == metadata.load_vocabulary(shards)
    assert there.class_counts.tolist() == here.class_counts.tolist()
    assert there.fingerprint == here.fingerprint
    assert [path.replace(DATA, str(shards)) for path in there.shard_paths] == list(here.shard_paths)
    with pytest.raises(metadata.MetadataError, match="no dataset folder s3://bucket/elsewhere"):
        metadata.load_vocabulary("s3://bucket/elsewhere")


def test_evaluation_reads_the_same_examples_in_the_same_order(store, shards, tmp_path):
    overrides = ["input.image_size=40", f"input.cache_dir={tmp_path}"]
    settings = config_module.load_preset("demo", overrides).input

    def ids(data):
        paths = metadata.load_split(data, "eval").shard_paths
        batches = input_module.evaluation_dataset(settings, paths, 16)
        return [image_id for examples, _ in batches for image_id in examples["image_id"].numpy()]

    assert ids(DATA) == ids(shards)
    copies = [path for path in tmp_path.iterdir() if path.name != "lock"]
    assert len(copies) == 3
    for path in copies:  # as a reset of the host can leave them
        size = path.stat().st_size
        path.write_bytes(b"")
        os.truncate(path, size)
    assert ids(DATA) == ids(shards)


def test_evaluation_says_of_a_store_that_fails_for_long_that_trying_again_may_help(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr(store, "is_cut", True)
    overrides = [f"input.cache_dir={tmp_path}", "input.fetch_timeout=1"]
    settings = config_module.load_preset("demo", overrides).input
    evaluation_set = EvaluationSet.read(DATA, "eval", None)
    with pytest.raises(FetchError, match="Given up"), evaluation_set.reading_shards():
        list(input_module.evaluation_dataset(settings, evaluation_set.split.shard_paths, 16))


def _train(run, cache, *more):
    small = ("network.width=0.1", "network.middle_modules=0", "input.image_size=48")
    small = (*small, "input.batch_size=8", "train.steps_per_closure=1")
    settings = (*small, f"input.cache_dir={cache}", *more)
    overrides = [f"--set={setting}" for setting in settings]
    return train.main(["--preset=demo", f"--data={DATA}", f"--workdir={run}", *overrides])


def test_a_store_that_fails_for_long_ends_training_with_code_75_and_the_file(
    store, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(store, "is_cut", True)
    limits = ("train.samples=800", "input.fetch_timeout=1")
    assert _train(tmp_path / "run", tmp_path / "cache", *limits) == 75
    error = capfd.readouterr().err
    said = r"Given up after \d\.\d s .*: s3://bucket/shards/images-\S+: .* 100 of"
    said = rf"model.train: on {socket.gethostname()}: {said}"
    assert re.search(said, error)
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_cache_that_is_too_small_ends_training_with_code_2_and_what_it_needs(
    store, tmp_path, capfd
):
    assert _train(tmp_path / "run", tmp_path / "cache", "input.cache_bytes=1000") == 2
    assert "input.cache_bytes=1,000 has no room for s3://" in capfd.readouterr().err


@pytest.fixture(scope="session")
def many_shards(store, shards):
    """The training scenes in more shards than a process has open, and those for evaluation."""
    folder = store.root / "many"
    scenes = shards.parent / "scenes"
    for split, num_shards in (("train", NUM_SHARDS), ("eval", 3)):
        command = [
            *(sys.executable, "beam_runner.py", "--source=manifest"),
            *(f"--labels={scenes}/{split}.csv", f"--images={scenes}", f"--split={split}"),
            *(f"--classes={scenes}/classes.tsv", f"--output={folder}"),
            f"--num_shards={num_shards}",
        ]
        subprocess.run(command, check=True, timeout=TIMEOUT, capture_output=True)
    return folder


@pytest.mark.slow
def test_a_cluster_trains_from_a_store_through_less_than_all_of_it(
    store, many_shards, tmp_path, capfd
):
    sizes = sorted(path.stat().st_size for path in many_shards.glob("images-train*"))
    bound = sum(sizes[-2 * (NUM_OPEN + 1) :])  # two workers share the folder
    assert bound < 0.8 * sum(sizes)
    cache = tmp_path / "cache"
    settings = ("train.samples=4800", f"input.cache_dir={cache}", f"input.cache_bytes={bound}")
    overrides = [part for setting in settings for part in ("--set", setting)]
    launch = Training("s3://bucket/many", tmp_path / "run", *overrides)
    try:
        most = 0
        while launch.process.poll() is None:
            most = max(most, taken(cache))
            time.sleep(0.01)
        assert launch.end() == 0, launch.output()
    finally:
        launch.close()
    launch.wait_until_gone()
    assert bound / 2 < most <= bound
    fetched = [name for name in store.fetched if f"-of-{NUM_SHARDS:05d}" in name]
    not_empty = [path for path in many_shards.glob("images-train*") if path.stat().st_size]
    assert set(fetched) == {path.name for path in not_empty}
    assert len(fetched) > 2 * NUM_SHARDS  # some came back

    command = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'report'}"]
    values = []
    for data in ("s3://bucket/many", many_shards):
        assert evaluate.main([*command, f"--data={data}"]) == 0
        report = json.loads((tmp_path / "report/report.json").read_text())
        values.append(report["metrics"]["map_at_100"]["value"])
    assert values[0] == values[1]


@pytest.mark.slow
def test_a_store_that_fails_in_the_middle_of_training_costs_no_step(
    store, many_shards, tmp_path, monkeypatch
):
    sizes = sorted(path.stat().st_size for path in many_shards.glob("images-train*"))
    settings = (
        *("train.checkpoint_every=1000", "train.samples=8000", "input.fetch_timeout=10"),
        *(
            f"input.cache_dir={tmp_path}/cache",
            f"input.cache_bytes={sum(sizes[-2 * NUM_OPEN - 2 :])}",
        ),
    )
    overrides = [f"--set={setting}" for setting in settings]
    launch = Training("s3://bucket/many", tmp_path / "run", *overrides)
    try:
        launch.wait_until(lambda: launch.last_step() > 20, "20 steps")
        monkeypatch.setattr(store, "is_cut", True)
        launch.wait_until(lambda: "starting the cluster again" in launch.output(), "its end")
        monkeypatch.setattr(store, "is_cut", False)
        assert launch.end() == 0, launch.output()
    finally:
        launch.close()
    said = r"model.train: on \S+: Given up after .*: s3://bucket/many/images-"
    assert re.search(said, launch.output())
    assert "Traceback" not in launch.output()
    assert launch.steps() == sorted(launch.steps())
    launch.wait_until_gone()
