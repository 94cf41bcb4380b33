"""What the faults of docs/fault_tolerance.md have in common: a tiny training, and a row a fault."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TIMEOUT = 240.0  # seconds that anything may take before it counts as a hang
STALL_TIMEOUT = 20.0  # seconds of silence after which the cluster acts
CLOSURE = 4  # steps that a worker takes for one message from the chief

TINY = (
    *("--preset=demo", "--set=network.width=0.1", "--set=network.middle_modules=0"),
    *("--set=input.image_size=48", "--set=input.batch_size=8", "--set=input.shuffle_buffer=64"),
    *("--set=train.log_every=0.2", "--set=train.checkpoint_every=4"),
    *(f"--set=train.steps_per_closure={CLOSURE}", f"--set=train.stall_timeout={STALL_TIMEOUT}"),
    *("--set=train.start_timeout=120", "--set=train.samples=100_000_000"),
)


class FaultError(RuntimeError):
    """What should have happened has not."""


class Row(NamedTuple):
    """A line of the table."""

    fault: str
    happens: str
    lost: int  # steps between the last one that was seen and the one that training went on from
    repeated: str  # steps
    seconds: float | None  # from the fault to the next step; None where there is none
    exit_code: str  # of the process that the fault hits

    def __str__(self):
        seconds = "none" if self.seconds is None else f"{self.seconds:.1f}"
        return (
            f"| {self.fault} | {self.happens} | {self.lost} | {self.repeated} "
            f"| {seconds} | {self.exit_code} |"
        )


HEADER = (
    "| fault | what happens | steps lost | steps repeated | s until the next step | exit code |\n"
    "|---|---|---|---|---|---|"
)


def wait_until(condition: Callable[[], object], what: str, explain: Callable[[], str]):
    """What the condition gave when it was true; FaultError if that takes too long."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise FaultError(f"not within {TIMEOUT:.0f} s: {what}\n{explain()}")
        time.sleep(0.05)
    return found


def read_metrics(run: Path) -> list[dict]:
    """The whole lines of a run's metrics; none before the first."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def read_steps(run: Path) -> list[int]:
    return [metrics["step"] for metrics in read_metrics(run)]


def number_of(text: str) -> int:
    return int(text.replace(",", ""))


def progress_steps(output: str) -> list[int]:
    return [number_of(step) for step in re.findall(r"^step +([\d,]+) ", output, re.MULTILINE)]
