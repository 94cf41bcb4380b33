"""Faults of the disk, of the input, and of processes that never find each other."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import usage
from benchmarks.fault_rows import (
    TIMEOUT,
    TINY,
    FaultError,
    Row,
    progress_steps,
    read_steps,
    wait_until,
)
from model import checkpoint
from model.launch import processes
from model.launch.local import free_ports


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


def damaged_record(shards: Path, folder: Path) -> Row:
    """Changes a byte of a record: training leaves the record out, counts it and goes on."""
    copy, run, log = folder / "damaged", folder / "around", folder / "damaged.log"
    shutil.copytree(shards, copy)
    shard = sorted(copy.glob("images-train.tfrecord-*"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    process = alone(copy, run, log)
    try:

        def explain():
            return log.read_text(errors="replace")

        wait_until(lambda: shard.name in explain(), "its complaint", explain)
        started = time.monotonic()
        wait_until(lambda: "damaged records 1 " in explain(), "a next step", explain)
        seconds = time.monotonic() - started
    finally:
        processes.stop([process])
    steps = read_steps(run)
    if steps != sorted(steps) or "Going on from" in explain():
        raise FaultError(f"training did not just go on:\n{explain()}")
    happens = "named, left out and counted, up to `input.max_damaged_records`"
    return Row("a record is damaged", happens, 0, "0", seconds, "none")


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
