"""A disk under the checkpoints that does not answer, or is slow, while training goes on."""

import json
import os
import signal
import threading

import pytest

from benchmarks.fault_rows import TIMEOUT, TINY, wait_until
from model import train


class Disk:
    """What os.fsync does: it hangs until `answers` is set."""

    def __init__(self, monkeypatch):
        self.hangs, self.answers = threading.Event(), threading.Event()
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor):
        self.hangs.set()
        self.answers.wait(TIMEOUT)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk(monkeypatch)
    yield disk
    disk.answers.set()
    for thread in threading.enumerate():
        if thread.name == "background writer":
            thread.join(TIMEOUT)


def _train(shards, run, *more):
    often = ("--set=train.checkpoint_every=0.2", "--set=train.steps_per_closure=1")
    return train.main([*TINY, *often, f"--data={shards}", f"--workdir={run}", *more])


def _when(event, function):
    def wait():
        if event.wait(TIMEOUT):
            function()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("is_told_to_end", [False, True])
def test_a_checkpoint_that_hangs_ends_training_in_one_process_with_code_75(
    shards, tmp_path, disk, capfd, is_told_to_end
):
    if is_told_to_end:
        _when(disk.hangs, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert _train(shards, tmp_path / "run", "--set=train.stall_timeout=2") == 75
    error = capfd.readouterr().err
    assert f"within 2 s (train.stall_timeout): {tmp_path}/run/checkpoints does not answer" in error
    assert "Traceback" not in error


def test_the_parameters_are_read_before_what_was_begun_is_written(shards, tmp_path, disk, capfd):
    run = tmp_path / "run"

    def answer_once_they_are_read():
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until((run / "events.jsonl").exists, "the word that they are read", str)
        disk.answers.set()

    _when(disk.hangs, answer_once_they_are_read)
    assert _train(shards, run) == 75
    (event,) = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert event["event"] == "read"
    assert "told to end (SIGTERM); step" in capfd.readouterr().err
