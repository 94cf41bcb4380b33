"""What a run is going to do, and what an earlier run has left in its folder.

OUT/commits/<split>/run.json       inputs, recipe, fingerprint and stamp of the run that writes it
OUT/commits/<split>/lock           held by the process that launched it (local folders)
OUT/commits/<split>/*.json         the shards' commits
OUT/commits/<split>/*.tmp          what a killed process leaves; swept by the next run
OUT/commits/<split>/summary.json   the numbers of a run that came to its end, good or bad
"""

import contextlib
import enum
import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from pipeline import metadata, publish, storage
from pipeline.labels import LabelError, Vocabulary
from pipeline.planning import Run
from pipeline.sharding import Plan, commits_folder, commits_pattern, shards_pattern
from pipeline.tables import tables


class RefusedError(ValueError):
    """The folder holds what this run must not touch; says what, and what to do."""


def check_writable(output: str) -> None:
    """Raises RefusedError where nothing can be written below a local output folder."""
    if not storage.is_local(output):
        return
    try:
        os.makedirs(output, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise RefusedError(f"--output={output} cannot be written: {error}") from error


class State(enum.Enum):
    """What stands in the folder when a run begins."""

    FRESH = "fresh"
    STARTED = "started"
    COMPLETED = "completed"


@contextlib.contextmanager
def begin(run: Run, overwrite: bool) -> Iterator[State]:
    """Holds the split for this run and says what stands in it; raises RefusedError."""
    split = run.plan.recipe.split
    folder = commits_folder(run.plan.output, split)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(storage.lock(storage.join(folder, "lock")))
            state = _prepare(run, folder, overwrite)
        except storage.LockedError as error:
            raise RefusedError(
                f"another run is writing split {split!r} of {run.plan.output}: wait until it ends"
            ) from error
        except OSError as error:
            raise RefusedError(f"--output={run.plan.output} cannot be written: {error}") from error
        yield state


def _prepare(run: Run, folder: str, overwrite: bool) -> State:
    plan = run.plan
    split = plan.recipe.split
    record_path = storage.join(folder, "run.json")
    if overwrite:
        _check_classes(run, overwrite)
        publish.withdraw(plan.output, split)
    own = _read_record(record_path)
    found = own or publish.read_marker(plan.output, split)
    record = {
        "fingerprint": plan.fingerprint,
        "inputs": run.inputs,
        "recipe": plan.recipe.to_dict(),
        "stamp": run.stamp,
    }
    _check_same_run(plan, found, record)
    _check_classes(run, overwrite)
    is_complete = found is not None and found.get("stamp", "") == run.stamp and _is_complete(plan)
    if not is_complete:
        publish.withdraw_marker(plan.output, split)
        storage.delete_temporary(folder)
    classes_path = storage.join(plan.output, metadata.CLASSES_FILE)
    if not storage.exists(classes_path) or not _is_class_list(classes_path, run.vocabulary):
        storage.write_text(classes_path, run.vocabulary.to_tsv(), folder)
    if not (is_complete and own):
        storage.write_text(record_path, json.dumps(record, indent=1) + "\n")
    if is_complete:
        return State.COMPLETED
    return State.STARTED if found else State.FRESH


def _check_same_run(plan: Plan, found: dict[str, Any] | None, record: dict[str, Any]) -> None:
    split, output = plan.recipe.split, plan.output
    advice = "choose another --output or --split, or write it anew with --overwrite"
    if found is None:
        shards = storage.match(shards_pattern(output, split))
        if shards:
            raise RefusedError(
                f"{output} holds shards of split {split!r} without a record of the run that wrote "
                f"them: {advice}"
            )
        return
    if found.get("fingerprint") == record["fingerprint"]:
        return
    changes = [
        f"{section}.{key}: {found.get(section, {}).get(key)} there, {value} now"
        for section in ("inputs", "recipe")
        for key, value in record[section].items()
        if found.get(section, {}).get(key) != value
    ]
    raise RefusedError(
        f"split {split!r} of {output} was begun by another run, with fingerprint "
        f"{str(found.get('fingerprint'))[:16]}; this one has {record['fingerprint'][:16]}. "
        f"What differs: {'; '.join(changes)}. To keep what is there, {advice}"
    )


def _check_classes(run: Run, overwrite: bool) -> None:
    """All splits of a folder share one class list; a foreign one is not touched."""
    output, split = run.plan.output, run.plan.recipe.split
    path = storage.join(output, metadata.CLASSES_FILE)
    if not storage.exists(path) or _is_class_list(path, run.vocabulary):
        return
    paths = publish.run_records(output)
    records = {name: _read_record(record_path) for name, record_path in paths.items()}
    digest = run.inputs["classes"]
    if records and all(found and _had_classes(found, digest) for found in records.values()):
        return  # every run here had this list: the file is damaged, and written anew
    others = sorted(set(records) - {split})
    if others:
        raise RefusedError(
            f"the class list differs from {path}, that of the folder's other splits "
            f"({', '.join(others)}): use that list, or another --output"
        )
    if not overwrite:
        raise RefusedError(
            f"the class list differs from {path}: use that list, choose another --output, or "
            "replace it with --overwrite"
        )


def _had_classes(record: dict[str, Any], digest: str) -> bool:
    return record["inputs"].get("classes") == digest


def _is_class_list(path: str, vocabulary: Vocabulary) -> bool:
    try:
        return publish.read_classes(path) == vocabulary
    except LabelError:
        return False


def _is_complete(plan: Plan) -> bool:
    """Whether the split is whole: the marker, every byte that it counts, and what TFDS reads."""
    output, split, num_shards = plan.output, plan.recipe.split, plan.recipe.num_shards
    marker = publish.read_marker(output, split)
    if marker is None or marker["fingerprint"] != plan.fingerprint:
        return False
    sizes = storage.sizes(shards_pattern(output, split, num_shards))
    commits = storage.match(commits_pattern(output, split, num_shards))
    others = (
        *metadata.TFDS_FILES,
        metadata.class_counts_file(split),
        *(table.file_of(split) for table in tables(split)),
        *([metadata.hierarchy_file(split)] if plan.rules.hierarchy else []),
    )
    return (
        len(sizes) == len(commits) == num_shards
        and sum(sizes.values()) == marker["num_bytes"]
        and all(storage.exists(storage.join(output, name)) for name in others)
    )


def _read_record(path: str) -> dict[str, Any] | None:
    """The record of the run that has begun; None where there is none, or it is damaged."""
    found = storage.read_json(path) or {}
    is_whole = all(isinstance(found.get(section), dict) for section in ("inputs", "recipe"))
    return found if is_whole else None
