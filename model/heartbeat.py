"""A sign of life from each process of a run: RUN/tasks/worker-0.json, written anew every second.

Who reads them (model.status) needs the folder alone. The last sign that a process gives is how
it ended; one that was killed gives none, and its successor notes that.
"""

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path

from model import run_folder

PERIOD = 1.0  # seconds
LONGEST_WRITE = 5.0  # seconds that a sign may take


class Heartbeat:
    """Signs of life of the task ("worker 0") of this process, within a `with` block.

    A folder that cannot be written is no reason to stop: then there are no signs.
    """

    def __init__(self, run_dir, task):
        self._path = Path(run_dir) / "tasks" / f"{task.replace(' ', '-')}.json"
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._sign = {
            "task": task,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": time.time(),
        }

    def __enter__(self):
        before = read(self._path)
        if before and before["pid"] != os.getpid():
            self._sign["before"] = {
                "seen": before["seen"],
                "message": before.get("message", "")
                if before.get("ended")
                else "killed, or its host was lost",
            }
        self._write()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind, error, trace):
        self._ended.set()
        self._sign["ended"] = True
        if error is not None:
            self._sign["message"] = str(error) or kind.__name__
        self._write()

    def _beat(self):
        while not self._ended.wait(PERIOD):
            self._write()

    def _write(self):
        # A sign that hangs on its disk must not keep the process from ending.
        if not self._lock.acquire(timeout=LONGEST_WRITE):
            return
        try:
            if self._ended.is_set() and "ended" not in self._sign:
                return
            text = json.dumps({**self._sign, "seen": time.time()}) + "\n"
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                run_folder.replace(self._path, lambda temporary: temporary.write_text(text))
        finally:
            self._lock.release()


def read(path):
    """A process's newest sign of life; None where there is none."""
    try:
        sign = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None
    return sign if isinstance(sign, dict) and "seen" in sign else None
