"""Faults of single processes of a cluster under the launcher: killed, told to end, stopped."""

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks import usage
from benchmarks.fault_rows import (
    CLOSURE,
    TIMEOUT,
    TINY,
    FaultError,
    Row,
    number_of,
    progress_steps,
    read_steps,
    wait_until,
)
from model import checkpoint
from model.launch import processes

JOIN_SECONDS = 8.0  # that a worker which serves again is given until it takes steps again


class Training:
    """A cluster under `python -m model.launch local`, in a run folder of its own.

    `more` are arguments of the training; `options` are the launcher's: num_workers, num_ps, ...
    """

    def __init__(self, shards: Path, run: Path, *more: str, **options: int):
        self.run = run
        self.log_path = run.with_suffix(".log")
        given = [f"--{name}={value}" for name, value in {"num_workers": 2, **options}.items()]
        command = [
            *(sys.executable, "-m", "model.launch", "local", *given, "--"),
            *(*TINY, f"--data={shards}", f"--workdir={run}", *more),
        ]
        with open(self.log_path, "ab") as log:
            self.process = processes.start(command, stderr=log, cwd=usage.ROOT)

    def output(self) -> str:
        return self.log_path.read_text(errors="replace")

    def pids(self) -> dict[str, int]:
        """The newest process of each role: {"worker 0": pid}."""
        found = re.findall(r"(\w+ \d) (?:\(pid|is pid) (\d+)", self.output())
        return {name: int(pid) for name, pid in found}

    def steps(self) -> list[int]:
        """The steps of all progress lines so far; they go back where steps were lost."""
        return read_steps(self.run)

    def last_step(self) -> int:
        """The step of the newest progress line; 0 without one."""
        return (self.steps() or [0])[-1]

    def left_over(self) -> str:
        """The processes that work for the run, one a line."""
        mark, found = f"--workdir={self.run}", []
        for process in psutil.process_iter(["pid", "cmdline"]):
            if mark in (process.info["cmdline"] or []):
                found.append(f"{process.info['pid']}: {' '.join(process.info['cmdline'])}")
        return "\n".join(found)

    def wait_until(self, condition: Callable[[], object], what: str):
        """As wait_until; also FaultError if the launcher ends meanwhile."""

        def check():
            if self.process.poll() is not None:
                raise FaultError(f"ended before {what}:\n{self.output()}")
            return condition()

        return wait_until(check, what, self.output)

    def wait_for_steps(self) -> None:
        """Returns when both workers have answered and training goes on."""
        seen = len(self.steps())
        self.wait_until(lambda: len(self.steps()) > seen + 2, "steps before a fault")

    def send(self, name: str, number: int) -> int:
        """Sends a signal to a process of the cluster; returns its pid."""
        pid = self.pids()[name]
        os.kill(pid, number)
        return pid

    def end(self) -> int:
        """Waits until the launcher ends; returns its exit code."""
        return self.process.wait(TIMEOUT)

    def wait_until_gone(self) -> None:
        """Waits until no process of the run is left, whose launcher has ended."""
        wait_until(lambda: not self.left_over(), "all processes end", self.left_over)

    def close(self) -> int:
        """Ends the cluster as a batch system does; returns the launcher's exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.end()


def hit_worker(number: int, says: str, happens: str) -> Callable[[str, Training], Row]:
    """A fault of a worker: the others go on, and the launcher replaces it."""

    def cause(fault: str, training: Training) -> Row:
        training.wait_for_steps()
        time.sleep(JOIN_SECONDS)
        output = len(training.output())
        count, before = len(training.steps()), training.steps()[-1]
        starts = training.output().count("Going on from")
        served = ports(training, "worker 1")
        started = time.monotonic()
        victim = training.send("worker 1", number)
        training.wait_until(lambda: training.steps()[-1] > before + 2 * CLOSURE, "steps of others")
        seconds = time.monotonic() - started
        training.wait_until(lambda: training.pids()["worker 1"] != victim, "a new worker")
        wait_until(
            lambda: len(ports(training, "worker 1")) > len(served), "its server", training.output
        )
        training.wait_for_steps()
        said = training.output()[output:]
        steps = training.steps()[count - 1 :]
        if training.output().count("Going on from") != starts or steps != sorted(steps):
            raise FaultError(f"the others did not go on:\n{said}")
        if says not in said or ports(training, "worker 1")[-1] != served[-1]:
            raise FaultError(f"{says!r} was not said, or its port is another:\n{said}")
        return Row(fault, happens, 0, f"≤ {CLOSURE}", seconds, ending(said, "worker 1"))

    return cause


def hit_cluster(name: str, number: int, says: str, happens: str) -> Callable[[str, Training], Row]:
    """A fault after which all processes start again from a checkpoint."""

    def cause(fault: str, training: Training) -> Row:
        training.wait_for_steps()
        training.wait_until(lambda: checkpoint.list_checkpoints(training.run), "a checkpoint")
        output = len(training.output())
        started = time.monotonic()
        training.send(name, number)
        return recovery(fault, training, name, output, started, says, happens)

    return cause


def recovery(fault, training, name, output, started, says, happens) -> Row:
    """The row of a fault after which all start again: what was lost, by the chief's own lines."""

    def resumed():
        return re.search(r"Going on from step ([\d,]+)(.*)", training.output()[output:], re.DOTALL)

    training.wait_until(lambda: (found := resumed()) and "\nstep " in found[2], "a next step")
    seconds = time.monotonic() - started
    said = training.output()[output:]
    whole = training.output()
    before = progress_steps(whole[: whole.index("Going on from", output)])
    lost = max(0, before[-1] - number_of(resumed()[1]))
    if says not in said or len(set(ports(training, "ps 0")[-2:])) < 2:
        raise FaultError(f"{says!r} was not said, or the ports are the same:\n{said}")
    return Row(fault, happens, lost, str(lost), seconds, ending(said, name))


def ending(said: str, name: str) -> str:
    """How a process ended, as the launcher says it."""
    found = re.search(rf"{name} ended with (?:exit code )?(.*)", said)
    return found[1] if found else "killed by the launcher"


def ports(training: Training, name: str) -> list[int]:
    """Where the processes of this name have served so far."""
    log = training.run / "logs" / f"{name.replace(' ', '-')}.log"
    return [int(port) for port in re.findall(r"serves at 127\.0\.0\.1:(\d+)", log.read_text())]


def take_port(fault: str, training: Training) -> Row:
    """Kills a worker and listens on its port before it is back."""
    training.wait_for_steps()
    output = len(training.output())
    port = ports(training, "worker 1")[-1]
    started = time.monotonic()
    training.send("worker 1", signal.SIGKILL)
    with contextlib.ExitStack() as stack:

        def taken():
            with contextlib.suppress(OSError):
                return stack.enter_context(socket.create_server(("127.0.0.1", port)))

        wait_until(taken, "the port of the dead worker", training.output)
        return recovery(
            fault,
            training,
            "worker 1",
            output,
            started,
            "has taken the port of worker 1",
            "the others go on for 10 s; then the chief saves and all start again on other ports",
        )


FAULTS: dict[str, Callable[[str, Training], Row]] = {
    "worker: kill -9": hit_worker(
        signal.SIGKILL,
        "worker 1 ended with signal SIGKILL",
        "replaced on its port; the others go on",
    ),
    "worker: SIGTERM": hit_worker(
        signal.SIGTERM,
        "worker 1 ended with exit code 75",
        "hands its closure back and ends; replaced on its port; the others go on",
    ),
    "worker: SIGSTOP": hit_worker(
        signal.SIGSTOP,
        "worker 1 hangs since",
        "found after `stall_timeout`, killed and replaced on its port; the others go on",
    ),
    "worker: its port is taken": take_port,
    "ps: kill -9": hit_cluster(
        "ps 0",
        signal.SIGKILL,
        "starting the cluster again",
        "all start again, on other ports, from the newest checkpoint",
    ),
    "ps: SIGTERM": hit_cluster(
        "ps 0",
        signal.SIGTERM,
        "ps 0 has to leave; step",
        "the chief saves for it; all start again from there",
    ),
    "ps: SIGSTOP": hit_cluster(
        "ps 0",
        signal.SIGSTOP,
        "from ps 0 at",
        "after `stall_timeout` all start again from the newest checkpoint",
    ),
    "chief: kill -9": hit_cluster(
        "chief 0",
        signal.SIGKILL,
        "starting the cluster again",
        "all start again, on other ports, from the newest checkpoint",
    ),
    "chief: SIGTERM": hit_cluster(
        "chief 0",
        signal.SIGTERM,
        "told to end (SIGTERM); step",
        "saves and ends; all start again from there",
    ),
    "chief: SIGSTOP": hit_cluster(
        "chief 0",
        signal.SIGSTOP,
        "starting the cluster again",
        "the servers miss it after `stall_timeout` and end; all start again",
    ),
}
