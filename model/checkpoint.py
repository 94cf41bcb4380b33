"""Checkpoints: written whole or not at all, read without a cluster.

    RUN/checkpoints/step-00001200/
        ema.safetensors          Polyak averages: what the evaluator loads
        parameters.safetensors   the parameters themselves, and the batch statistics
        slots.safetensors        RMSprop's mean_square/... and momentum/...
        config.toml              the resolved configuration
        classes.tsv              the class list, in the order of the network's outputs
        state.json               step, samples, seconds, sha256 of the class list and of each file

Tensors go by the network's paths, so that a checkpoint knows nothing of how many servers held
them. Everything is written into a temporary folder, which is renamed as the last thing.

Which checkpoint a start goes on from, see `load_newest`: the newest that is whole and of this
network and class list; those that are not are set aside as step-N.refused. A file system that does
not give a file now says nothing about the checkpoint, which stays where it is.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path

import safetensors
import safetensors.numpy

from model import config as config_module
from model import run_folder
from pipeline import labels

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")
_TENSOR_FILES = ("ema", "parameters", "slots")
_STATE_KEYS = ("step", "samples", "seconds", "class_list_sha256", "sha256")
_SLOTS = ("mean_square", "momentum")
# What says that a file is not there. All others come for whole checkpoints, too: EIO, ESTALE or
# EACCES, of a file server that starts again.
_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and says why."""


class UnreachableError(CheckpointError):
    """A checkpoint that the file system does not give now; starting again may help."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    step: int
    path: str


def list_checkpoints(run_dir):
    """The finished checkpoints of a run, [Checkpoint] in order of their steps.

    Raises UnreachableError rather than leave one out that is there.
    """
    found = []
    for path in _entries(run_dir):
        match = _NAME.fullmatch(path.name)
        if match and _exists(path / "state.json"):
            found.append(Checkpoint(int(match[1]), str(path)))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_step(run_dir):
    """The step of the newest checkpoint of a run; 0 without one. Raises UnreachableError."""
    return max((saved.step for saved in list_checkpoints(run_dir)), default=0)


def at(path):
    """The checkpoint in a folder, wherever that is; raises CheckpointError."""
    return Checkpoint(read_state(path)["step"], str(path))


def save(run_dir, state, config, vocabulary):
    """Writes what ParameterStore.export gave, and the "seconds" that training took so far.

    Then deletes the checkpoints that `train.keep_checkpoints` and `train.keep_hourly` do not keep.

    Returns the Checkpoint. Saving a step that is there already changes nothing.
    """
    folder = Path(run_dir) / "checkpoints"
    final = folder / f"step-{state['step']:08d}"
    if not (final / "state.json").is_file():
        temporary = folder / f"{final.name}.tmp-{os.getpid()}"
        # A killed process may have had the same pid: in a container they are all the same.
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            _write(temporary, state, config, vocabulary)
            shutil.rmtree(final, ignore_errors=True)  # what is left of one that was being deleted
            os.replace(temporary, final)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    with contextlib.suppress(OSError, UnreachableError):  # what is too many goes the next time
        _retain(run_dir, config.train)
    return Checkpoint(state["step"], str(final))


def load(path, parameters=None):
    """Reads a checkpoint; CheckpointError if it is gone, incomplete, damaged or foreign.

    UnreachableError, which is one too, if it cannot be read now.

    Args:
        parameters: "ema" or "raw" reads that set of parameters alone, as {path: array}; None reads
            everything, in the form that ParameterStore.restore takes.
    """
    path = Path(path)
    if parameters is not None:
        return _read_tensors(path, {"ema": "ema", "raw": "parameters"}[parameters])
    state = read_state(path)
    slots = _read_tensors(path, "slots")
    restored = {
        "step": state["step"],
        "samples": state["samples"],
        "seconds": state["seconds"],
        "parameters": _read_tensors(path, "parameters"),
        "ema": _read_tensors(path, "ema"),
    }
    for slot in _SLOTS:
        prefix = f"{slot}/"
        restored[slot] = {
            name.removeprefix(prefix): array
            for name, array in slots.items()
            if name.startswith(prefix)
        }
    return restored


def read_state(path):
    """The contents of a checkpoint's state.json, checked."""
    data = _read(Path(path) / "state.json")
    try:
        state = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{path} is no finished checkpoint: {error}.") from error
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is no checkpoint of this program: state.json has no format_version "
            f"{FORMAT_VERSION}."
        )
    missing = [key for key in _STATE_KEYS if key not in state]
    if missing:
        raise CheckpointError(f"{path} is damaged: state.json has no {', '.join(missing)}.")
    return state


def read_config(path):
    """The configuration that a checkpoint was trained with; raises CheckpointError."""
    file = Path(path) / "config.toml"
    try:
        return config_module.read(file)
    except (config_module.ConfigError, UnicodeDecodeError) as error:
        if isinstance(error.__cause__, OSError):
            raise _unreadable(file, error.__cause__) from error
        raise CheckpointError(f"{path}: {error}") from error


def read_vocabulary(path):
    """The classes of a checkpoint, in the order of the network's outputs; or CheckpointError."""
    file = Path(path) / "classes.tsv"
    try:
        return labels.Vocabulary.read(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    except labels.LabelError as error:
        raise CheckpointError(f"{path} has no class list that can be used: {error}") from error


def load_newest(run_dir, config, vocabulary, report):
    """The newest usable checkpoint's state for ParameterStore.restore, or None in a new run.

    A checkpoint that is damaged, or that is of another network or class list, is reported (a
    function of one string) and set aside as step-N.refused, and the one before it is used.
    CheckpointError if all there ever were are set aside: nobody but the user begins such a run
    anew. UnreachableError, and nothing is set aside, if one cannot be read now.
    """
    for candidate in reversed(list_checkpoints(run_dir)):
        try:
            _check_is_of(candidate.path, config, vocabulary)
            return load(candidate.path)
        except UnreachableError:
            raise
        except CheckpointError as error:
            report(f"Setting aside a checkpoint that cannot be used: {error}")
            aside = f"{candidate.path}.refused"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(candidate.path, aside)
    refused = sorted(path.name for path in _entries(run_dir) if path.name.endswith(".refused"))
    if refused:
        raise CheckpointError(
            f"{run_dir} holds no checkpoint that can be used, and {len(refused)} that were set "
            f"aside: {', '.join(refused[-5:])}. To go on from one that is sound after all, take "
            ".refused off its name; to train from the beginning, delete them, or train into "
            "another folder."
        )
    return None


def _check_is_of(path, config, vocabulary):
    """Raises CheckpointError where a checkpoint is of another network or class list."""
    if read_state(path)["class_list_sha256"] != run_folder.class_list_hash(vocabulary):
        raise CheckpointError(
            f"{path} was trained on another class list than the {len(vocabulary)} classes here."
        )
    if not _exists(Path(path) / "config.toml"):
        return  # an older one
    network = read_config(path).network
    if network != config.network:
        raise CheckpointError(f"{path} is of another network: {network}.")


def _write(folder, state, config, vocabulary):
    contents = {
        "ema": state["ema"],
        "parameters": state["parameters"],
        "slots": {f"{slot}/{name}": a for slot in _SLOTS for name, a in state[slot].items()},
    }
    hashes = {}
    for name in _TENSOR_FILES:
        data = safetensors.numpy.save(contents[name])
        hashes[name] = hashlib.sha256(data).hexdigest()
        run_folder.write_durably(folder / f"{name}.safetensors", data)
    run_folder.write_durably(folder / "config.toml", config_module.to_toml(config).encode())
    run_folder.write_durably(folder / "classes.tsv", vocabulary.to_tsv().encode())
    description = {
        "format_version": FORMAT_VERSION,
        "step": state["step"],
        "samples": state["samples"],
        "seconds": state["seconds"],
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "class_list_sha256": run_folder.class_list_hash(vocabulary),
        "sha256": hashes,
    }
    run_folder.write_durably(folder / "state.json", json.dumps(description, indent=2).encode())


def _read_tensors(path, name):
    wanted = read_state(path)["sha256"].get(name)
    file = path / f"{name}.safetensors"
    data = _read(file)
    if hashlib.sha256(data).hexdigest() != wanted:
        raise CheckpointError(
            f"{file} is damaged: its {len(data)} bytes do not have the sha256 in state.json."
        )
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file} is damaged: {error}.") from error


def _entries(run_dir):
    """The paths in the folder of checkpoints; none where there is no folder yet."""
    folder = Path(run_dir) / "checkpoints"
    try:
        return list(folder.iterdir())
    except _ABSENT:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _exists(path):
    """Whether it is there; pathlib's own takes some errors for a no."""
    try:
        path.stat()
    except _ABSENT:
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def _read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path, error):
    """The CheckpointError of a file that an OSError came for."""
    if isinstance(error, _ABSENT):
        return CheckpointError(f"{path} cannot be read: {error.strerror}.")
    return UnreachableError(
        f"{path} cannot be read now: {error.strerror}. The checkpoint is left as it is; start "
        "again once the file system gives it."
    )


def _retain(run_dir, config):
    """Deletes all checkpoints but the newest, and the first of each `keep_hourly` hours."""
    checkpoints = list_checkpoints(run_dir)
    kept = {saved.path for saved in checkpoints[-config.keep_checkpoints :]}
    if config.keep_hourly:
        kept |= _first_of_each(checkpoints, 3600.0 * config.keep_hourly)
    for saved in checkpoints:
        if saved.path not in kept:
            # state.json goes first: without it nobody takes what is left for a checkpoint.
            (Path(saved.path) / "state.json").unlink(missing_ok=True)
            shutil.rmtree(saved.path, ignore_errors=True)
    for leftover in (Path(run_dir) / "checkpoints").glob("step-*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _first_of_each(checkpoints, period):
    """Paths of the first checkpoint in each `period` seconds of training, and of the unreadable."""
    firsts: dict[int, str] = {}
    unknown = set()
    for saved in checkpoints:
        try:
            seconds = read_state(saved.path)["seconds"]
        except UnreachableError:
            unknown.add(saved.path)  # it may be a first
        except CheckpointError:
            continue  # a damaged one is kept for being new, if at all
        else:
            firsts.setdefault(int(seconds // period), saved.path)
    return unknown.union(firsts.values())
