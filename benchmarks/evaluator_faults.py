"""Faults of the evaluator that watches a run: started late, killed, told to end, stopped."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import usage
from benchmarks.fault_rows import (
    TIMEOUT,
    FaultError,
    Row,
    number_of,
    read_steps,
    wait_until,
)
from benchmarks.host_faults import alone
from model import checkpoint
from model.launch import processes

WATCH_TIMEOUT = 30.0  # seconds without a checkpoint after which the evaluator gives up


class Watched:
    """A training in one process, and the evaluator beside it."""

    def __init__(self, shards: Path, folder: Path):
        self.run = folder / "watched"
        self._log = folder / "watched.log"
        self._command = [
            *(sys.executable, "-m", "eval.evaluate", f"--workdir={self.run}", f"--data={shards}"),
            *("--split=eval", "--watch", f"--watch_timeout={WATCH_TIMEOUT}"),
        ]
        self.training = alone(shards, self.run, self._log)
        self.evaluator: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts an evaluator."""
        with open(self._log, "ab") as log:
            self.evaluator = processes.start(self._command, stdout=log, stderr=log, cwd=usage.ROOT)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def evaluated(self) -> list[int]:
        """The steps that were evaluated so far, in the order in which they were."""
        found = re.findall(r"^step +([\d,]+)  samples ", self.output(), re.MULTILINE)
        return [number_of(step) for step in found]

    def history(self) -> set[int]:
        """The steps that count as evaluated."""
        lines = (self.run / "eval" / "eval" / "history.jsonl").read_text().splitlines()
        return {json.loads(line)["step"] for line in lines}

    def checkpoints(self) -> list[int]:
        """The steps of the checkpoints that are there, in ascending order."""
        return [found.step for found in checkpoint.list_checkpoints(self.run)]

    def wait_for_checkpoint(self) -> int:
        """Waits until training has written another one; returns its step."""
        before = checkpoint.newest_step(self.run)
        wait_until(lambda: checkpoint.newest_step(self.run) > before, "a checkpoint", self.output)
        return checkpoint.newest_step(self.run)

    def wait_for_evaluation(self) -> float:
        """Waits for the next evaluation; returns the seconds."""
        started, seen = time.monotonic(), len(self.evaluated())
        wait_until(lambda: len(self.evaluated()) > seen, "an evaluation", self.output)
        return time.monotonic() - started

    def wait_for_steps(self) -> None:
        """Waits until training has gone on: it needs no evaluator."""
        seen = len(read_steps(self.run))
        wait_until(lambda: len(read_steps(self.run)) > seen + 2, "steps", self.output)

    def close(self) -> None:
        processes.stop([self.training, *([self.evaluator] if self.evaluator else [])])


def rows(shards: Path, folder: Path) -> Iterator[Row]:
    """Causes all faults of an evaluator, one after the other."""
    watched = Watched(shards, folder)
    try:
        yield late(watched)
        yield ended(watched, signal.SIGKILL, "evaluator: kill -9")
        yield ended(watched, signal.SIGTERM, "evaluator: SIGTERM")
        yield stopped(watched)
        yield training_gone(watched)
    finally:
        watched.close()


def late(watched: Watched) -> Row:
    """Starts the evaluator when training has written checkpoints already."""
    watched.wait_for_checkpoint()
    newest = watched.wait_for_checkpoint()
    watched.start()
    seconds = watched.wait_for_evaluation()
    if watched.evaluated()[0] < newest:
        raise FaultError(f"{watched.evaluated()} came before {newest}:\n{watched.output()}")
    happens = "the newest checkpoint is evaluated first, then the ones before that are still there"
    return Row("evaluator: late start", happens, 0, "0", seconds, "none")


def ended(watched: Watched, number: signal.Signals, fault: str) -> Row:
    """Ends the evaluator when it has work, and starts it again: nothing is evaluated twice."""
    watched.wait_for_checkpoint()
    watched.evaluator.send_signal(number)
    exit_code = watched.evaluator.wait(TIMEOUT)
    watched.wait_for_steps()
    before, seen = watched.history(), len(watched.evaluated())
    watched.start()
    seconds = watched.wait_for_evaluation()
    again = before & set(watched.evaluated()[seen:])
    if exit_code != -number or again or "Traceback" in watched.output():
        raise FaultError(f"exit code {exit_code}, {again} twice:\n{watched.output()}")
    happens = "training goes on; started again, it evaluates what its history does not hold"
    return Row(fault, happens, 0, "0", seconds, f"signal {number.name}")


def stopped(watched: Watched) -> Row:
    """Stops the evaluator until training has deleted what it was to evaluate, and lets it go on."""
    watched.evaluator.send_signal(signal.SIGSTOP)
    there = {*watched.evaluated(), *watched.checkpoints()}
    while there & set(watched.checkpoints()):
        watched.wait_for_checkpoint()
    started = time.monotonic()
    watched.evaluator.send_signal(signal.SIGCONT)
    wait_until(lambda: set(watched.evaluated()) - there, "a later evaluation", watched.output)
    seconds = time.monotonic() - started
    happens = "training goes on; what was deleted meanwhile is passed over"
    return Row("evaluator: SIGSTOP", happens, 0, "0", seconds, "none")


def training_gone(watched: Watched) -> Row:
    """Ends the training before its time: the evaluator waits for it, and not for ever."""
    watched.training.send_signal(signal.SIGTERM)
    watched.training.wait(TIMEOUT)
    exit_code = watched.evaluator.wait(TIMEOUT)
    said = "and training has not said that it ended"
    missing = set(watched.checkpoints()) - watched.history()
    if exit_code != 75 or missing or said not in watched.output():
        raise FaultError(f"exit code {exit_code}, without {missing}:\n{watched.output()}")
    happens = "evaluates what is there, ends after `--watch_timeout` and says what it waited for"
    return Row("evaluator: training is gone", happens, 0, "0", None, str(exit_code))
