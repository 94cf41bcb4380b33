"""Damaged records that a cluster meets in the middle of training."""

import json
import shutil

import pytest

from benchmarks.process_faults import Training
from pipeline import tfrecord

pytestmark = pytest.mark.slow


@pytest.fixture
def own_shards(shards, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(shards, tmp_path / "shards")


def _damage(shard, number):
    """Turns a bit in the record of this number, while others read.

    Returns what is said of it: "76 records of SHARD at byte 145045".
    """
    with open(shard, "rb") as file:
        records = list(tfrecord.read(file))
    start = sum(tfrecord.FRAME_BYTES + len(record) for record in records[:number])
    with open(shard, "r+b") as file:
        file.seek(start + 20)
        (byte,) = file.read(1)
        file.seek(start + 20)
        file.write(bytes([byte ^ 1]))
    return f"{len(records)} records of {shard} at byte {start}"


def _launch(shards, run, *settings):
    overrides = [part for setting in settings for part in ("--set", setting)]
    launch = Training(shards, run, *overrides)
    launch.wait_until(lambda: launch.last_step() > 20, "20 steps")
    return launch


def test_a_record_damaged_in_the_middle_of_training_is_left_out_and_training_ends_whole(
    own_shards, tmp_path
):
    launch = _launch(own_shards, tmp_path / "run", "train.samples=4800")
    try:
        shard = own_shards / "images-train.tfrecord-00001-of-00003"
        said = f"Left out 1 damaged of {_damage(shard, number=40)}"
        launch.wait_until(lambda: said in launch.output(), "the damage was met")
        before = launch.last_step()
        assert launch.end() == 0, launch.output()
    finally:
        launch.close()
    lines = [json.loads(line) for line in (launch.run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["samples"] >= 4800
    assert lines[-1]["step"] > before
    assert lines[-1]["input/damaged_records"] == 1
    assert (
        (launch.run / "damaged_records.tsv").read_text().splitlines()[1].startswith(f"{shard}\t1")
    )
    assert launch.output().count("Left out") == 1
    assert "starting" not in launch.output()  # neither a worker nor the cluster, once more
    launch.wait_until_gone()


def test_one_damaged_record_more_than_the_limit_ends_the_cluster_with_file_and_byte(
    own_shards, tmp_path
):
    launch = _launch(own_shards, tmp_path / "run", "input.max_damaged_records=1")
    try:
        first, second = (
            own_shards / f"images-train.tfrecord-{number:05d}-of-00003" for number in (0, 2)
        )
        _damage(first, number=10)
        launch.wait_until(lambda: "Left out 1" in launch.output(), "the first damage was met")
        place = _damage(second, number=60).partition(" records of ")[2]
        assert launch.end() == 2, launch.output()
    finally:
        launch.close()
    assert f"Damaged records: 1 in {place}, and 1 before; " in launch.output()
    assert "Traceback" not in launch.output()
    launch.wait_until_gone()
