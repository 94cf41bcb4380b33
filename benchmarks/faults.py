"""Causes every fault of docs/fault_tolerance.md, and prints its table.

    python -m benchmarks.faults

One training cluster of two workers and one ps on this machine goes through all that can happen to a
process; a second one, whose processes live in network namespaces of their own (root on Linux),
through what can happen to a network. `tests/model/test_faults.py` runs the same faults and checks
what comes out. Seconds are of a tiny network on loopback: a restart takes what TensorFlow takes to
start.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import usage
from model import checkpoint
from model.launch import processes
from model.launch.local import free_ports

TIMEOUT = 240.0  # seconds that anything may take before it counts as a hang
STALL_TIMEOUT = 20.0  # seconds of silence after which the cluster acts
JOIN_SECONDS = 8.0  # that a worker which serves again is given until it takes steps again
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


class Training:
    """A cluster under `python -m model.launch local`, in a run folder of its own."""

    def __init__(self, shards: Path, run: Path, *more: str):
        self.run = run
        self.log_path = run.with_suffix(".log")
        command = [
            *(sys.executable, "-m", "model.launch", "local", "--num_workers=2", "--num_ps=1", "--"),
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

    def close(self) -> int:
        """Ends the cluster as a batch system does; returns the launcher's exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(TIMEOUT)


def read_steps(run: Path) -> list[int]:
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


# ---- What happens to processes: name -> function(Training) -> Row ----


def hit_worker(number: int, says: str, happens: str) -> Callable[[str, Training], Row]:
    """A fault of a worker: the others go on, and the launcher replaces it."""

    def cause(fault: str, training: Training) -> Row:
        training.wait_for_steps()
        time.sleep(JOIN_SECONDS)
        output = len(training.output())
        count, before = len(training.steps()), training.steps()[-1]
        starts = training.output().count("Going on from")
        started = time.monotonic()
        victim = training.send("worker 1", number)
        training.wait_until(lambda: training.steps()[-1] > before + 2 * CLOSURE, "steps of others")
        seconds = time.monotonic() - started
        training.wait_until(lambda: training.pids()["worker 1"] != victim, "a new worker")
        wait_until(
            lambda: answers_for(training, "worker 1"), "the new worker's server", training.output
        )
        training.wait_for_steps()
        said = training.output()[output:]
        steps = training.steps()[count - 1 :]
        if training.output().count("Going on from") != starts or steps != sorted(steps):
            raise FaultError(f"the others did not go on:\n{said}")
        if says not in said:
            raise FaultError(f"{says!r} was not said:\n{said}")
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
    if says not in said:
        raise FaultError(f"{says!r} was not said:\n{said}")
    return Row(fault, happens, lost, str(lost), seconds, ending(said, name))


def number_of(text: str) -> int:
    return int(text.replace(",", ""))


def ending(said: str, name: str) -> str:
    """How a process ended, as the launcher says it."""
    found = re.search(rf"{name} ended with (?:exit code )?(.*)", said)
    return found[1] if found else "killed by the launcher"


def answers_for(training: Training, name: str) -> bool:
    log = training.run / "logs" / f"{name.replace(' ', '-')}.log"
    return log.read_text().count("serves at") >= training.output().count(f"{name} is pid")


def take_port(fault: str, training: Training) -> Row:
    """Kills a worker and listens on its port before it is back."""
    training.wait_for_steps()
    output = len(training.output())
    log = (training.run / "logs" / "worker-1.log").read_text()
    port = int(re.findall(r"serves at 127\.0\.0\.1:(\d+)", log)[-1])
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
        signal.SIGKILL, "worker 1 ended with signal SIGKILL", "replaced; the others go on"
    ),
    "worker: SIGTERM": hit_worker(
        signal.SIGTERM,
        "worker 1 ended with exit code 75",
        "hands its closure back and ends; replaced; the others go on",
    ),
    "worker: SIGSTOP": hit_worker(
        signal.SIGSTOP,
        "worker 1 hangs since",
        "found after `stall_timeout`, killed and replaced; the others go on",
    ),
    "worker: its port is taken": take_port,
    "ps: kill -9": hit_cluster(
        "ps 0",
        signal.SIGKILL,
        "starting the cluster again",
        "all start again from the newest checkpoint",
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
        "all start again from the newest checkpoint",
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


# ---- What happens to the disk, the input, and processes that never find each other ----


def alone(shards: Path, run: Path, log: Path, *more: str, **variables: str) -> subprocess.Popen:
    """`python -m model.train`, in one process or as the one that TF_CONFIG makes it."""
    command = [sys.executable, "-m", "model.train", *TINY, f"--data={shards}", f"--workdir={run}"]
    with open(log, "ab") as stream:
        return processes.start(
            [*command, *more], stderr=stream, cwd=usage.ROOT, env={**os.environ, **variables}
        )


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mounts a disk of its own at the folder; PermissionError where that is not allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        tried = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise PermissionError("there is no command `mount`") from error
    if tried.returncode:
        raise PermissionError(tried.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(shards: Path, folder: Path) -> Row:
    """Fills the disk under the checkpoints while training goes on, and makes room again."""
    run, log = folder / "disk" / "run", folder / "disk.log"
    with small_disk(folder / "disk", "64m"):
        process = alone(shards, run, log)
        try:

            def explain():
                return log.read_text(errors="replace")

            wait_until(lambda: checkpoint.list_checkpoints(run), "a checkpoint", explain)
            filler = folder / "disk" / "filler"
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(1 << 12))
            started, steps = time.monotonic(), progress_steps(explain())
            kept = checkpoint.list_checkpoints(run)[-1]
            wait_until(lambda: progress_steps(explain())[-1] > steps[-1], "a next step", explain)
            seconds = time.monotonic() - started
            wait_until(lambda: "No checkpoint was written" in explain(), "its complaint", explain)
            steps = progress_steps(explain())
            wait_until(lambda: progress_steps(explain())[-1] > steps[-1], "more steps", explain)
            checkpoint.load(kept.path)
            filler.unlink()
            wait_until(
                lambda: checkpoint.list_checkpoints(run)[-1].step > kept.step, "another", explain
            )
        finally:
            processes.stop([process])
        return Row(
            "disk under the checkpoints full",
            "said; training goes on, the checkpoint before is kept, the next one is tried",
            *(0, "0", seconds, "none"),
        )


def ended_alone(shards: Path, folder: Path) -> Row:
    """Ends training in one process as a batch system does: it saves first."""
    run, log = folder / "alone", folder / "alone.log"
    process = alone(shards, run, log)
    try:
        wait_until(lambda: len(read_steps(run)) > 2, "steps", lambda: log.read_text())
        process.send_signal(signal.SIGTERM)
        code = process.wait(TIMEOUT)
    finally:
        processes.stop([process])
    said = log.read_text()
    last = read_steps(run)[-1]
    saved = checkpoint.list_checkpoints(run)[-1].step
    if code != 75 or saved < last or f"step {saved:,} is saved" not in said:
        raise FaultError(f"exit code {code}\n{said}")
    happens = "saves and ends; the same command goes on from there"
    return Row("one process: SIGTERM", happens, 0, "0", None, str(code))


def missing_shard(shards: Path, folder: Path) -> Row:
    """Takes a shard away: training cannot read all that it should, however often it starts."""
    copy, log = folder / "copy", folder / "missing.log"
    shutil.copytree(shards, copy)
    gone = sorted(copy.glob("images-train.tfrecord-*"))[1]
    gone.unlink()
    process = alone(copy, folder / "missing", log)
    try:
        code = process.wait(TIMEOUT)
    finally:
        processes.stop([process])
    said = log.read_text(errors="replace")
    if code != 2 or gone.name not in said or "Traceback" in said:
        raise FaultError(f"exit code {code}\n{said}")
    happens = "ends and names the file: starting again would end in the same way"
    return Row("a shard is missing", happens, 0, "0", None, str(code))


def progress_steps(output: str) -> list[int]:
    return [number_of(step) for step in re.findall(r"^step +([\d,]+) ", output, re.MULTILINE)]


def never_proceeding(shards: Path, folder: Path) -> list[Row]:
    """Processes whose cluster never comes: each ends, and says what it waited for."""
    ports = free_ports(5)
    chief, ps, worker, *nobody = [f"127.0.0.1:{port}" for port in ports]
    cluster = {"chief": [chief], "ps": [ps], "worker": [worker]}
    wrong = {"chief": [nobody[0]], "ps": [nobody[1]], "worker": [nobody[1]]}
    finished = folder / "finished"
    finished.mkdir()
    (finished / "completed.json").write_text('{"step": 1, "samples": 8, "seconds": 1.0}\n')
    no_chief = f"No answer from the chief at {chief}"
    cases = [
        ("worker: no chief ever comes", cluster, "worker", folder / "run", 75, no_chief),
        ("ps: no chief ever comes", cluster, "ps", folder / "run", 75, no_chief),
        ("chief: wrong addresses", wrong, "chief", folder / "other", 75, f"ps 0 at {nobody[1]}"),
    ]
    found = [_never(shards, folder, *case) for case in cases]
    case = ("ps: the run is complete, no chief", cluster, "ps", finished, 0, "is trained already")
    return [*found, _never(shards, folder, *case)]


def _never(shards, folder, fault, cluster, role, run, exit_code, says) -> Row:
    log = folder / "never.log"
    start = log.stat().st_size if log.exists() else 0
    config = json.dumps({"cluster": cluster, "task": {"type": role, "index": 0}})
    more = "--set=train.start_timeout=3"
    process = alone(shards, run, log, more, TF_CONFIG=config)
    try:
        code = process.wait(TIMEOUT)
    finally:
        processes.stop([process])
    said = log.read_text()[start:]
    if code != exit_code or says not in said:
        raise FaultError(f"{fault}: exit code {code}\n{said}")
    happens = "ends after `start_timeout` and says whom it waited for"
    return Row(fault, happens, 0, "0", None, str(code))


def main(argv: list[str] | None = None) -> int:
    """Causes all faults and prints the table."""
    from benchmarks import network_faults

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    parser.add_argument("--only", default="", help="only faults whose name holds this text")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder)
        print(HEADER, flush=True)
        training = Training(shards, folder / "run")
        try:
            for fault, cause in FAULTS.items():
                if options.only in fault:
                    print(cause(fault, training), flush=True)
        finally:
            training.close()
        if options.only:
            return 0
        for row in never_proceeding(shards, folder):
            print(row, flush=True)
        print(full_disk(shards, folder), flush=True)
        print(missing_shard(shards, folder), flush=True)
        print(ended_alone(shards, folder), flush=True)
        reason = network_faults.why_not()
        for row in [] if reason else network_faults.rows(shards, folder / "network"):
            print(row, flush=True)
        if reason:
            print(f"No network was cut: {reason}", file=sys.stderr)
    return 0


def make_shards(folder: Path) -> Path:
    """A small dataset, by the pipeline's commands."""
    scenes, shards = folder / "scenes", folder / "shards"
    log = folder / "pipeline.log"
    counts = ["--num_train=240", "--num_eval=60"]
    usage.run([sys.executable, "-m", "pipeline.synthetic", f"--output={scenes}", *counts], log)
    for split in ("train", "eval"):
        command = [
            *("beam_runner.py", "--source=manifest", f"--labels={scenes}/{split}.csv"),
            *(f"--images={scenes}", f"--classes={scenes}/classes.tsv", f"--output={shards}"),
            *(f"--split={split}", "--num_shards=3"),
        ]
        usage.run([sys.executable, *command], log)
    return shards


if __name__ == "__main__":
    sys.exit(main())
