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
network and class list; those that are not are set aside as step-N.refused.
"""

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


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names it and says why."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    step: int
    path: str


def list_checkpoints(run_dir):
    """The finished checkpoints of a run, [Checkpoint] in order of their steps."""
    folder = Path(run_dir) / "checkpoints"
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match and (path / "state.json").is_file():
            found.append(Checkpoint(int(match[1]), str(path)))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


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
    _retain(run_dir, config.train)
    return Checkpoint(state["step"], str(final))


def load(path, parameters=None):
    """Reads a checkpoint; CheckpointError if it is gone, incomplete, damaged or foreign.

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
    try:
        state = json.loads((Path(path) / "state.json").read_text())
    except (OSError, ValueError) as error:
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
    try:
        return config_module.read(Path(path) / "config.toml")
    except config_module.ConfigError as error:
        raise CheckpointError(str(error)) from error


def read_vocabulary(path):
    """The classes of a checkpoint, in the order of the network's outputs; or CheckpointError."""
    try:
        return labels.Vocabulary.read(Path(path) / "classes.tsv")
    except (OSError, labels.LabelError) as error:
        raise CheckpointError(f"{path} has no class list that can be used: {error}") from error


def load_newest(run_dir, config, vocabulary, report):
    """The newest usable checkpoint's state for ParameterStore.restore, or None in a new run.

    A checkpoint that cannot be read, or that is of another network or class list, is reported (a
    function of one string) and set aside as step-N.refused, and the one before it is used.
    CheckpointError if none can be used.
    """
    checkpoints = list_checkpoints(run_dir)
    for candidate in reversed(checkpoints):
        try:
            _check_is_of(candidate.path, config, vocabulary)
            return load(candidate.path)
        except CheckpointError as error:
            report(f"Setting aside a checkpoint that cannot be used: {error}")
            aside = f"{candidate.path}.refused"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(candidate.path, aside)
    if checkpoints:
        raise CheckpointError(
            f"None of the {len(checkpoints)} checkpoints below {run_dir} can be used. "
            "They are set aside as step-*.refused; the next start trains from the beginning."
        )
    return None


def _check_is_of(path, config, vocabulary):
    """Raises CheckpointError where a checkpoint is of another network or class list."""
    if read_state(path)["class_list_sha256"] != run_folder.class_list_hash(vocabulary):
        raise CheckpointError(
            f"{path} was trained on another class list than the {len(vocabulary)} classes here."
        )
    if not (Path(path) / "config.toml").exists():
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
        _write_durably(folder / f"{name}.safetensors", data)
    _write_durably(folder / "config.toml", config_module.to_toml(config).encode())
    _write_durably(folder / "classes.tsv", vocabulary.to_tsv().encode())
    description = {
        "format_version": FORMAT_VERSION,
        "step": state["step"],
        "samples": state["samples"],
        "seconds": state["seconds"],
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "class_list_sha256": run_folder.class_list_hash(vocabulary),
        "sha256": hashes,
    }
    _write_durably(folder / "state.json", json.dumps(description, indent=2).encode())


def _write_durably(path, data):
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _read_tensors(path, name):
    wanted = read_state(path)["sha256"].get(name)
    file = path / f"{name}.safetensors"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != wanted:
        raise CheckpointError(
            f"{file} is damaged: its {len(data)} bytes do not have the sha256 in state.json."
        )
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{file} is damaged: {error}.") from error


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
    """Paths of the first checkpoint in each `period` seconds of training."""
    firsts: dict[int, str] = {}
    for saved in checkpoints:
        try:
            seconds = read_state(saved.path)["seconds"]
        except CheckpointError:
            continue  # a damaged one is kept for being new, if at all
        firsts.setdefault(int(seconds // period), saved.path)
    return set(firsts.values())
