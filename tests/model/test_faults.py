"""Every row of docs/fault_tolerance.md, caused: each fault checks what it is said to do itself.

The faults are those that `benchmarks.faults` prints the table of.
"""

import os

import pytest

from benchmarks import fault_rows, host_faults, network_faults, process_faults
from model import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def training(shards, tmp_path_factory):
    """One cluster that goes through everything."""
    training = process_faults.Training(shards, tmp_path_factory.mktemp("faults") / "run")
    yield training
    training.close()


@pytest.mark.parametrize("fault", process_faults.FAULTS)
def test_a_fault_of_a_process_costs_at_most_what_came_since_the_last_checkpoint(training, fault):
    row = process_faults.FAULTS[fault](fault, training)
    print(row)
    if "SIGTERM" in fault or fault.startswith("worker"):
        # What was counted between the last progress line and the checkpoint is all there can be.
        assert row.lost == 0


def test_a_training_that_is_ended_saves_and_leaves_no_process(training):
    training.wait_for_steps()
    fault_rows.wait_until(
        lambda: checkpoint.list_checkpoints(training.run), "a checkpoint", training.output
    )
    newest = checkpoint.list_checkpoints(training.run)[-1].step
    seen = len(training.output())
    assert training.close() == 75
    assert checkpoint.list_checkpoints(training.run)[-1].step > newest
    said = training.output()[seen:]
    assert "told to end (SIGTERM); step" in said
    assert "Traceback" not in said
    fault_rows.wait_until(
        lambda: not any(os.path.exists(f"/proc/{pid}") for pid in training.pids().values()),
        "all processes end",
        training.output,
    )


def test_a_cluster_that_never_comes_together_ends_and_says_why(shards, tmp_path):
    rows = host_faults.never_proceeding(shards, tmp_path)
    assert [row.exit_code for row in rows] == ["75", "75", "75", "0"]


def test_a_full_disk_under_the_checkpoints_is_survived(shards, tmp_path):
    try:
        host_faults.full_disk(shards, tmp_path)
    except PermissionError as error:
        pytest.skip(f"a disk of its own cannot be mounted here: {error}")


def test_training_in_one_process_saves_before_it_ends(shards, tmp_path):
    assert host_faults.ended_alone(shards, tmp_path).exit_code == "75"


def test_a_missing_shard_ends_training_and_is_named(shards, tmp_path):
    assert host_faults.missing_shard(shards, tmp_path).exit_code == "2"


def test_what_is_cut_off_the_network_is_found_and_the_others_go_on(shards, tmp_path):
    reason = network_faults.why_not()
    if reason:
        pytest.skip(reason)
    rows = network_faults.rows(shards, tmp_path / "run")
    assert [row.exit_code for row in rows] == ["none", "75"]
