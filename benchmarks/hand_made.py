"""A training cluster whose processes are started one by one, on one machine or several."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar, Protocol

from benchmarks import usage
from benchmarks.fault_rows import (
    TINY,
    FaultError,
    number_of,
    read_steps,
    wait_until,
)
from model import checkpoint
from model.cluster import EXIT_TRY_AGAIN
from model.launch import processes


class Hosts(Protocol):
    """Where processes run."""

    addresses: dict[str, str]  # host -> address

    def command(self, host: str, command: list[str]) -> list[str]:
        """The command that runs another one on a host; its process becomes that of the other."""


class ThisMachine:
    """One host, on which commands run as they are."""

    addresses: ClassVar[dict[str, str]] = {"here": "127.0.0.1"}

    def command(self, host: str, command: list[str]) -> list[str]:
        return command


class HandMadeCluster:
    """Chief, ps and workers, started one by one with TF_CONFIG as on machines of their own.

    `places` says where each is: {"worker 1": (host, port)}; TF_CONFIG says so to all that start
    from then on.
    """

    def __init__(self, hosts: Hosts, places: dict[str, tuple[str, int]], shards: Path, run: Path):
        self._hosts = hosts
        self._arguments = [*TINY, f"--data={shards}", f"--workdir={run}"]
        self.run = run
        self.processes: dict[str, subprocess.Popen] = {}
        self.logs: dict[str, Path] = {}
        self.places = places

    def address(self, name: str) -> str:
        host, port = self.places[name]
        return f"{self._hosts.addresses[host]}:{port}"

    def start(self, name: str, *more: str) -> None:
        """Starts the process `name` ("worker 1") in its place."""
        role, index = name.split()
        roles = ("chief", "ps", "worker")
        addresses = {r: [self.address(n) for n in self.places if n.startswith(r)] for r in roles}
        config = {"cluster": addresses, "task": {"type": role, "index": int(index)}}
        command = [sys.executable, "-m", "model.train", *self._arguments, *more]
        self.logs[name] = self.run.with_name(f"{self.run.name}-{name.replace(' ', '-')}.log")
        with open(self.logs[name], "ab") as log:
            self.processes[name] = processes.start(
                self._hosts.command(self.places[name][0], command),
                stdout=log, stderr=log, cwd=usage.ROOT, start_new_session=True,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
            )  # fmt: skip

    def start_again(self, *, but: str = "") -> tuple[int, float]:
        """Ends what is left and starts all, as an operator does; (steps lost, seconds).

        `but`: one that cannot be started any more.
        """
        self.close()
        after, started = len(self.output()), time.monotonic()
        last, held = read_steps(self.run)[-1], checkpoint.newest_step(self.run)
        for name in self.places:
            if name != but:
                self.start(name, *(["--set=train.gather_timeout=5"] if but else []))
        self.wait_for("Going on from step", after=after)
        resumed = number_of(re.findall(r"Going on from step ([\d,]+)", self.output())[-1])
        if resumed != held:
            raise FaultError(f"a checkpoint held step {held}, not {resumed}:\n{self.explain()}")
        self.wait_for_steps()
        return max(0, last - resumed), time.monotonic() - started

    def output(self, name: str = "chief 0") -> str:
        return self.logs[name].read_text(errors="replace")

    def explain(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"{name}: {self.output(name)[-2000:]}" for name in self.logs)

    def wait_for(self, text: str, name: str = "chief 0", after: int = 0) -> None:
        """Waits until a process has said something, not counting its first `after` characters."""
        wait_until(lambda: text in self.output(name)[after:], f"{name}: {text}", self.explain)

    def wait_for_steps(self, more: int = 3) -> float:
        """Waits for progress lines; returns the seconds until the first."""
        seen, started = len(read_steps(self.run)), time.monotonic()
        wait_until(lambda: len(read_steps(self.run)) > seen, "a next step", self.explain)
        seconds = time.monotonic() - started
        wait_until(lambda: len(read_steps(self.run)) > seen + more, "more steps", self.explain)
        return seconds

    def end_of(self, name: str) -> int:
        """Waits until a process ends; returns its exit code."""
        process = self.processes[name]
        wait_until(lambda: process.poll() is not None, f"{name} ends", self.explain)
        return process.returncode

    def end_of_all(self) -> str:
        """Waits until all have ended by themselves; returns the one exit code of all."""
        exit_codes = {name: self.end_of(name) for name in self.places}
        if set(exit_codes.values()) != {EXIT_TRY_AGAIN}:
            raise FaultError(f"exit codes {exit_codes}:\n{self.explain()}")
        return str(EXIT_TRY_AGAIN)

    def wait_for_checkpoint(self) -> None:
        """Waits until another checkpoint is there."""
        held = checkpoint.newest_step(self.run)
        wait_until(lambda: checkpoint.newest_step(self.run) > held, "a checkpoint", self.explain)

    def close(self) -> None:
        processes.stop(list(self.processes.values()))
