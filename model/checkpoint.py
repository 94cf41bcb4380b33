"""Checkpoints: written whole or not at all, read without a cluster.

    RUN/checkpoints/step-00001200/
        ema.safetensors          Polyak averages: what the evaluator loads
        parameters.safetensors   the parameters themselves, and the batch statistics
        slots.safetensors        RMSprop's mean_square/... and momentum/...
        state.json               step, samples, seconds, sha256 of the class list and of each file

Tensors go by the network's paths, so that a checkpoint knows nothing of how many servers held
them. Everything is written into a temporary folder, which is renamed as the last thing.
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

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")
_FILES = ("ema", "parameters", "slots")
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


def save(run_dir, state, class_list_hash, keep):
    """Writes what ParameterStore.export gave, and the "seconds" that training took so far.

    Then deletes all but the `keep` newest checkpoints.

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
            _write(temporary, state, class_list_hash)
            shutil.rmtree(final, ignore_errors=True)  # what is left of one that was being deleted
            os.replace(temporary, final)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    _retain(run_dir, keep)
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


def load_newest(run_dir, report):
    """The newest usable checkpoint's state for ParameterStore.restore, or None in a new run.

    A checkpoint that cannot be read is reported (a function of one string) and set aside as
    step-N.damaged, and the one before it is used. CheckpointError if none can be used.
    """
    checkpoints = list_checkpoints(run_dir)
    for candidate in reversed(checkpoints):
        try:
            return load(candidate.path)
        except CheckpointError as error:
            report(f"Setting aside a damaged checkpoint: {error}")
            aside = f"{candidate.path}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(candidate.path, aside)
    if checkpoints:
        raise CheckpointError(
            f"None of the {len(checkpoints)} checkpoints below {run_dir} can be read. "
            "They are set aside as step-*.damaged; the next start trains from the beginning."
        )
    return None


def _write(folder, state, class_list_hash):
    contents = {
        "ema": state["ema"],
        "parameters": state["parameters"],
        "slots": {f"{slot}/{name}": a for slot in _SLOTS for name, a in state[slot].items()},
    }
    hashes = {}
    for name in _FILES:
        data = safetensors.numpy.save(contents[name])
        hashes[name] = hashlib.sha256(data).hexdigest()
        _write_durably(folder / f"{name}.safetensors", data)
    description = {
        "format_version": FORMAT_VERSION,
        "step": state["step"],
        "samples": state["samples"],
        "seconds": state["seconds"],
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "class_list_sha256": class_list_hash,
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


def _retain(run_dir, keep):
    for checkpoint in list_checkpoints(run_dir)[:-keep]:
        # state.json goes first: without it nobody takes what is left for a checkpoint.
        (Path(checkpoint.path) / "state.json").unlink(missing_ok=True)
        shutil.rmtree(checkpoint.path, ignore_errors=True)
    for leftover in (Path(run_dir) / "checkpoints").glob("step-*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
