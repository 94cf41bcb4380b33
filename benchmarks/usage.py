"""What a command takes: wall time, CPU seconds, peak memory."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from model.launch import processes

ROOT = Path(__file__).resolve().parents[1]
DEADLINE = 1800.0  # seconds that one command may take


class BenchmarkError(RuntimeError):
    """Something that could not be measured."""


class Usage(NamedTuple):
    """What a process and its children took."""

    wall: float  # seconds
    cpu: float  # seconds
    peak: int  # bytes of the largest process


def in_temporary_folder(module: str, measure: Callable[[Path], object]) -> int:
    """Calls a function with a folder; 0, or 1 where it raised a BenchmarkError, which is said."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder))
    except BenchmarkError as error:
        print(f"{module}: {error}", file=sys.stderr)
        return 1
    return 0


def run(
    command: list[str], log: Path, deadline: float = DEADLINE, **variables: str
) -> tuple[Usage, str]:
    """(what a command took, the last line that it printed); raises BenchmarkError if it failed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
    started = time.monotonic()
    with open(log, "wb") as stream:
        process = processes.start(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=ROOT,
            start_new_session=True,
        )  # fmt: skip
    try:
        status = None
        while status is None:
            time.sleep(0.01)
            process_id, found, used = os.wait4(process.pid, os.WNOHANG)
            status = found if process_id else None
            if status is None and time.monotonic() - started > deadline:
                raise BenchmarkError(f"not finished after {deadline:.0f} s; see {log}")
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # its children too: the session is its own
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    usage = Usage(time.monotonic() - started, used.ru_utime + used.ru_stime, _bytes(used.ru_maxrss))
    lines = log.read_text(errors="replace").strip().splitlines() or [""]
    if process.returncode:
        raise BenchmarkError(f"exit code {process.returncode}: {lines[-1]}; see {log}")
    return usage, lines[-1]


def _bytes(max_rss: int) -> int:
    return max_rss if sys.platform == "darwin" else max_rss * 1024
