"""What a run is trained with: each start adds a line to RUN/versions.jsonl."""

import importlib.metadata
import json
import platform
import subprocess
import time
from pathlib import Path

from model import run_folder

_PACKAGES = ("xception-at-scale", "tensorflow", "keras", "numpy")
_ROOT = Path(__file__).parent.parent


def installed():
    """{name: version} of Python, this package, and what decides numbers."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages}


def git_commit():
    """The commit that this code is of, with -dirty where it was changed since; None without git."""
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def add(run_dir, data_dir, split, report):
    """Notes what this start runs with, and reports what differs from the one before.

    `split`: the Split that is trained on; `report`: a function of one string.
    """
    now = {
        "time": time.strftime(run_folder.TIME_FORMAT, time.gmtime()),
        **installed(),
        "commit": git_commit(),
        "data": str(data_dir),
        "data_fingerprint": split.fingerprint,
    }
    before = newest(run_dir)
    changes = [
        f"{name} {value}, was {before.get(name)}"
        for name, value in now.items()
        if before and name != "time" and value != before.get(name)
    ]
    if changes:
        report("This start differs from the one before: " + "; ".join(changes))
    with open(_path(run_dir), "a") as file:
        file.write(json.dumps(now) + "\n")


def newest(run_dir):
    """What the newest start noted; None where there is nothing."""
    return run_folder.last_line(_path(run_dir))


def _path(run_dir):
    return Path(run_dir) / "versions.jsonl"
