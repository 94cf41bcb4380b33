"""The folder that a training run explains itself with: configuration, classes, events, end marker.

Read by the trainer when it resumes and by the evaluator; imports no TensorFlow.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

from model import config as config_module
from model.config import ConfigError
from pipeline import labels, metadata

_COMPLETED = "completed.json"
_EVENTS = "events.jsonl"
_TAIL_BYTES = 1 << 16  # that are read of a file's end at first

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
# Errors of file systems that may pass: a full disk, a file server that does not answer.
MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


class TrainingError(Exception):
    """Training cannot go on, and starting it again as it is would not help."""


def check_is_local(run_dir):
    """ConfigError where this is an address of a store, which would become a folder of that name."""
    if metadata.is_remote(run_dir):
        raise ConfigError(
            f"A run's folder cannot lie in an object store: {run_dir}. Its files are locked and "
            "appended to. Name a folder of this host, or of a file system that all hosts of the "
            "cluster share, by its path."
        )


@contextlib.contextmanager
def hold(run_dir):
    """Keeps the folder for this process alone; ConfigError if another one trains into it.

    The lock ends with the process, however that ends.
    """
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(run_dir) / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"Another process trains into {run_dir}. Wait until it ends, or train into another "
                "folder."
            ) from error
        yield


def check(run_dir, config, vocabulary, report):
    """Checks that this run may go on in the folder, if there is a run in it.

    Raises ConfigError where the network or the class list differ from the run that is there;
    other differences are reported (a function of one string).
    """
    folder = Path(run_dir)
    if not (folder / "config.toml").exists():
        return
    differences = config_module.differences(config, read_config(folder))
    for line in differences:
        if line.startswith("network."):
            raise ConfigError(
                f"{folder} holds a run of another network ({line}). Train into another folder."
            )
    if differences:
        report("The configuration differs from the run's: " + "; ".join(differences))
    before = read_vocabulary(folder)
    if before.classes != vocabulary.classes:
        raise ConfigError(
            f"{folder} holds a run over {len(before)} classes, and the data has "
            f"{len(vocabulary)} or others. Train into another folder."
        )


def write(run_dir, config, vocabulary, class_counts):
    """Writes what the run's folder says of the run: when training is about to begin or go on."""
    folder = Path(run_dir)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    replace(folder / "classes.tsv", vocabulary.write)
    replace(
        folder / "class_counts.tsv",
        lambda path: labels.write_class_counts(path, vocabulary, class_counts),
    )
    # Last: a folder with a configuration is a complete one.
    replace(
        folder / "config.toml",
        lambda path: Path(path).write_text(config_module.to_toml(config)),
    )


def read_config(run_dir):
    """The configuration that the run was trained with."""
    check_is_local(run_dir)
    path = Path(run_dir) / "config.toml"
    if not path.exists():
        raise ConfigError(f"{run_dir} is no folder of a training run: it has no config.toml.")
    return config_module.read(path)


def read_vocabulary(run_dir):
    """The classes of the run, in the order of the network's outputs."""
    return labels.Vocabulary.read(Path(run_dir) / "classes.tsv")


def class_list_hash(vocabulary):
    """sha256 of the classes in their order: what a checkpoint's last layer belongs to."""
    return hashlib.sha256("\n".join(vocabulary.classes).encode()).hexdigest()


def mark_completed(run_dir, end):
    """Writes the marker that ends the servers and the watching evaluator.

    `end`: how far training came, {"step": int, "samples": int, "seconds": float}.
    """
    contents = {
        "step": end["step"],
        "samples": end["samples"],
        "seconds": round(end["seconds"], 1),
        "written": time.time(),  # makes each run's marker different from the one before
    }
    replace(
        Path(run_dir) / _COMPLETED,
        lambda path: Path(path).write_text(json.dumps(contents) + "\n"),
    )


def read_completed(run_dir):
    """The text of the end marker, another one each time that it is written; None without one."""
    try:
        return (Path(run_dir) / _COMPLETED).read_text()
    except OSError:
        return None


def is_completed(run_dir):
    """Whether training into this folder has ended, all of it."""
    return read_completed(run_dir) is not None


def clear_completed(run_dir):
    """Takes the marker away: training goes on."""
    (Path(run_dir) / _COMPLETED).unlink(missing_ok=True)


def add_event(run_dir, task, event, **more):
    """Appends a line to RUN/events.jsonl, by which the processes of a cluster tell each other.

    `task`: whom it is about, "worker 1". Events: "hung" (by the chief, for whoever can end the
    worker), "leaving" (by a ps, for the chief to save), "read" (by the chief: from here on it
    needs no ps to do so), "died" (by the launcher).
    A folder that cannot be written is no reason to stop training: False says that it failed.
    """
    line = {"time": time.strftime(TIME_FORMAT, time.gmtime()), "task": task}
    try:
        with open(Path(run_dir) / _EVENTS, "a") as file:
            file.write(json.dumps({**line, "event": event, **more}) + "\n")
    except OSError:
        return False
    return True


class Events:
    """Reads the events that are added to a run from now on, or all of them."""

    def __init__(self, run_dir, from_start=False):
        self._path = Path(run_dir) / _EVENTS
        self._offset = 0 if from_start else self._size()

    def new(self):
        """[{"time", "task", "event", ...}] since the last call, in their order."""
        if self._size() <= self._offset:
            return []
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # the rest of a line is still being written
        self._offset += len(whole)
        events = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):  # one that a full disk cut off
                events.append(json.loads(line))
        return events

    def _size(self):
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def last_line(path):
    """What the last whole line of a file of JSON lines says; None where there is none.

    Reads the end of the file alone: the metrics of months are gigabytes.
    """
    try:
        with open(path, "rb") as file:
            size, num_bytes = os.path.getsize(path), _TAIL_BYTES
            while True:
                start = max(0, size - num_bytes)
                file.seek(start)
                lines = file.read(size - start).split(b"\n")
                # The first one begins before what was read.
                for line in reversed(lines[1:] if start else lines):
                    with contextlib.suppress(ValueError):  # is written now, or a full disk cut it
                        return json.loads(line)
                if start == 0:
                    return None
                num_bytes *= 8
    except OSError:
        return None


def replace(path, write):
    """Writes a file whole: `write` gets a temporary path beside it, which is then renamed."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    write(temporary)
    os.replace(temporary, path)


def write_durably(path, data):
    """Writes bytes that are on the disk when this returns."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
