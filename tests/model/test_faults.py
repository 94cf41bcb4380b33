"""Every row of docs/fault_tolerance.md, caused: each fault checks what it is said to do itself.

The faults are those that `benchmarks.faults` prints the table of.
"""

import signal

import pytest

from benchmarks import (
    evaluator_faults,
    fault_rows,
    host_faults,
    membership_faults,
    network_faults,
    process_faults,
    soak,
)
from model import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def training(shards, tmp_path_factory):
    """One cluster that goes through everything."""
    training = process_faults.Training(shards, tmp_path_factory.mktemp("faults") / "run")
    yield training
    training.close()


def exit_codes(rows):
    """Those of the rows, which are printed as they come."""
    codes = []
    for row in rows:
        print(row)
        codes.append(row.exit_code)
    return codes


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
    training.wait_until_gone()


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


def test_a_damaged_record_is_left_out_and_training_goes_on(shards, tmp_path):
    assert host_faults.damaged_record(shards, tmp_path).exit_code == "none"


@pytest.mark.timeout(600)
def test_workers_may_be_missing_at_a_start_and_join_at_another(shards, tmp_path):
    codes = ["none", "75 (the chief's)", "75 (the chief's)"]
    assert exit_codes(membership_faults.rows(shards, tmp_path / "run")) == codes


@pytest.mark.timeout(900)
def test_what_is_cut_off_the_network_is_found_and_the_others_go_on(shards, tmp_path):
    reason = network_faults.why_not()
    if reason:
        pytest.skip(reason)
    codes = ["none", "75", "75 (the chief's)", "75", "75"]
    assert exit_codes(network_faults.rows(shards, tmp_path / "run")) == codes


@pytest.mark.timeout(600)
def test_an_evaluator_evaluates_each_checkpoint_once_whatever_happens_to_it(shards, tmp_path):
    codes = ["none", "signal SIGKILL", "signal SIGTERM", "none", "75"]
    assert exit_codes(evaluator_faults.rows(shards, tmp_path)) == codes


@pytest.mark.timeout(600)
def test_a_training_that_faults_hit_before_the_last_is_mended_ends_whole(shards, tmp_path):
    plan = [
        soak.Fault("worker 0", signal.SIGKILL, at=0.2),
        soak.Fault("worker 1", signal.SIGTERM, at=None),
        soak.Fault("ps 0", signal.SIGKILL, at=0.4),
        soak.Fault("chief 0", signal.SIGTERM, at=None),
        soak.Fault("worker 0", signal.SIGSTOP, at=0.7),
        soak.Fault("worker 1", signal.SIGKILL, at=None),
    ]
    outcome = soak.soak(shards, tmp_path / "run", samples=20_000, plan=plan)
    assert outcome.samples >= 20_000
    assert 1 <= len(outcome.resumed) < outcome.starts
    assert outcome.endings["worker SIGKILL"] >= 2


def test_a_resumption_is_held_against_the_checkpoint_before_it():
    lines = [
        "wrote /run/checkpoints/step-00001200 in 0.1 s",
        "step   1,240      9,920 of 20,000 images   60.0 images/s  loss 0.5",
        "Going on from step 1,196, 9,568 images",
    ]
    assert list(soak.resumptions("\n".join(lines))) == [(1240, 1200, 1196)]
