"""Turns the commits of a split into what readers see: counts, TFDS metadata, the marker.

The marker comes last: a folder without it has no such split. It comes off first, too, when a split
is withdrawn to be written anew.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import apache_beam as beam
import numpy as np

from pipeline import metadata, storage
from pipeline.fetch import NUM_THREADS
from pipeline.labels import Vocabulary, class_counts_to_tsv
from pipeline.read_ahead import in_order
from pipeline.sharding import (
    Commit,
    Plan,
    ShardError,
    commit_path,
    commits_folder,
    parse_commit,
    shards_pattern,
)
from pipeline.statistics import SplitStatistics, failure_rate, leading_reasons, unknown_labels
from pipeline.tables import tables


def read_classes(path: str) -> Vocabulary:
    """The class list in a file; raises LabelError, or OSError."""
    return Vocabulary.parse(storage.read_bytes(path), path)


def run_records(output: str) -> dict[str, str]:
    """Paths of the records of the runs that have begun, by split; see run_state."""
    paths = storage.match(f"{output.rstrip('/')}/commits/*/run.json")
    return {path.rsplit("/", 2)[-2]: path for path in paths}


def summary_path(output: str, split: str) -> str:
    return storage.join(commits_folder(output, split), "summary.json")


def read_summary(output: str, split: str) -> dict[str, Any]:
    """The numbers of a run that came to its end: of the marker where the split is complete."""
    marker = read_marker(output, split)
    return marker or json.loads(storage.read_text(summary_path(output, split)))


def read_marker(output: str, split: str) -> dict[str, Any] | None:
    """The numbers of a completed split; None where there is no marker, or none of ours."""
    marker = storage.read_json(storage.join(output, metadata.completed_file(split)))
    return marker if _is_ours(marker) else None


@dataclasses.dataclass(frozen=True)
class Limits:
    """What may be lost of a split that stands."""

    max_failure_rate: float
    max_unknown_rate: float


def problem(summary: dict[str, Any], limits: Limits) -> str | None:
    """Why a split with these numbers must not stand; None where it may."""
    if not summary["num_examples"]:
        return f"none of {summary['num_rows']:,} rows gave an image: {leading_reasons(summary)}"
    rate = failure_rate(summary)
    if rate > limits.max_failure_rate:
        return (
            f"{rate:.2%} of {summary['num_images']:,} images are lost, more than the "
            f"{limits.max_failure_rate:.2%} of --max_failure_rate: {leading_reasons(summary)}"
        )
    num_labels = summary["num_unknown_labels"] + summary["num_known_labels"]
    if summary["num_unknown_labels"] > limits.max_unknown_rate * num_labels:
        return (
            f"{unknown_labels(summary)} labels are not in the class list, for instance "
            f"{', '.join(map(repr, list(summary['unknown_labels'])[:5]))}: are --classes, "
            "--labels_column and --label_delimiter the right ones? (--max_unknown_rate)"
        )
    return None


class Publish(beam.DoFn):
    """Publishes a split, given its SplitStatistics, unless too much of it is lost."""

    def __init__(self, plan: Plan, vocabulary: Vocabulary, limits: Limits) -> None:
        self._plan = plan
        self._vocabulary = vocabulary
        self._limits = limits

    def process(self, statistics: SplitStatistics) -> None:
        try:
            self._publish(statistics)
        except OSError as error:
            raise ShardError(f"cannot write into {self._plan.output}: {error}") from error

    def _publish(self, statistics: SplitStatistics) -> None:
        output, split = self._plan.output, self._plan.recipe.split
        summary = statistics.to_dict(self._plan)
        self._check_shards(statistics)
        self._write_tables(statistics)
        folder = commits_folder(output, split)
        counts = np.zeros(len(self._vocabulary), np.int64)
        for class_id, count in statistics.class_counts.items():
            counts[class_id] = count
        storage.write_text(
            storage.join(output, metadata.class_counts_file(split)),
            class_counts_to_tsv(self._vocabulary, counts),
            folder,
        )
        if self._plan.rules.hierarchy is not None:
            storage.write_text(
                storage.join(output, metadata.hierarchy_file(split)),
                self._plan.rules.hierarchy.to_csv(),
                folder,
            )
        text = json.dumps(summary, indent=1) + "\n"
        fault = problem(summary, self._limits)
        storage.write_text(
            summary_path(output, split), json.dumps({**summary, "problem": fault}, indent=1) + "\n"
        )
        if fault is None:
            write_tfds_metadata(output, self._vocabulary, folder, also=summary)
            storage.write_text(storage.join(output, metadata.completed_file(split)), text, folder)
            write_tfds_metadata(output, self._vocabulary, folder)

    def _check_shards(self, statistics: SplitStatistics) -> None:
        """Raises ShardError where a shard's file is not as long as the one that is counted.

        A runner may try a shard twice at once, and keeps the commit of either. Where the two did
        not get the same images, their records differ, and so, but for chance, the lengths.
        """
        output, recipe = self._plan.output, self._plan.recipe
        pattern = shards_pattern(output, recipe.split, recipe.num_shards)
        sizes = {os.path.basename(path): size for path, size in storage.sizes(pattern).items()}
        for shard, (num_bytes, _) in sorted(statistics.shard_files.items()):
            name = metadata.shard_file(recipe.split, shard, recipe.num_shards)
            if sizes.get(name) != num_bytes:
                raise _of_another_attempt(storage.join(output, name))

    def _write_tables(self, statistics: SplitStatistics) -> None:
        """Writes the lists beside the shards, with lines from the shards' commits.

        Raises ShardError where a commit is not the one that is counted.
        """
        output, recipe = self._plan.output, self._plan.recipe
        folder = commits_folder(output, recipe.split)
        with contextlib.ExitStack() as stack:
            streams = {
                table: stack.enter_context(
                    storage.write_atomically(
                        storage.join(output, table.file_of(recipe.split)), folder
                    )
                )
                for table in tables(recipe.split)
            }
            for table, stream in streams.items():
                stream.write(table.header)
            for path, commit in self._commits(sorted(statistics.shard_files)):
                if commit is None:
                    raise ShardError(f"{path} is damaged: start the same command again")
                if (commit.num_bytes, commit.sha256) != statistics.shard_files.get(commit.shard):
                    raise _of_another_attempt(path)
                for table, stream in streams.items():
                    stream.write(table.lines(commit))

    def _commits(self, shards: list[int]) -> Iterator[tuple[str, Commit | None]]:
        """(path, commit) of each shard; they are read ahead, for stores that are far away."""
        output, recipe = self._plan.output, self._plan.recipe
        paths = [commit_path(output, recipe.split, shard, recipe.num_shards) for shard in shards]
        with concurrent.futures.ThreadPoolExecutor(NUM_THREADS, "commits") as threads:
            found = in_order(
                lambda path, stopped: storage.read_bytes(path), paths, lambda path: threads, OSError
            )
            for path, data in zip(paths, found, strict=True):
                yield path, None if isinstance(data, OSError) else parse_commit(data)


def _of_another_attempt(path: str) -> ShardError:
    return ShardError(
        f"{path} is not what is counted: another attempt at this shard has written it since. Start "
        "the same command again"
    )


def write_tfds_metadata(
    output: str,
    vocabulary: Vocabulary,
    temporary_folder: str,
    also: dict[str, Any] | None = None,
) -> None:
    """Lists the completed splits, and `also`, for TFDS; markers that are not ours are left out.

    Two splits may be published at once. Each lists all markers after its own stands, and looks
    again after writing, so that the last to write has seen both.
    """
    while True:
        splits = {marker["split"]: marker for marker in markers(output)}
        if also is not None:
            splits[also["split"]] = also
        changed = False
        for name, text in metadata.tfds_files(vocabulary, list(splits.values())).items():
            path = storage.join(output, name)
            if not storage.exists(path) or storage.read_text(path) != text:
                storage.write_text(path, text, temporary_folder)
                changed = True
        if not changed:
            return


def withdraw_marker(output: str, split: str) -> None:
    """Removes the marker: the split is no longer complete."""
    _delete_present([storage.join(output, metadata.completed_file(split))])


def withdraw(output: str, split: str) -> None:
    """Removes a split: first what readers see, then its shards, and the record of its run last."""
    withdraw_marker(output, split)
    if markers(output):
        classes = read_classes(storage.join(output, metadata.CLASSES_FILE))
        write_tfds_metadata(output, classes, commits_folder(output, split))
    else:
        _delete_present(storage.join(output, name) for name in metadata.TFDS_FILES)
    folder = commits_folder(output, split)
    record = storage.join(folder, "run.json")
    _delete_present(storage.join(output, name) for name in metadata.split_files(split))
    storage.delete(storage.match(shards_pattern(output, split)))
    leftovers = storage.match(storage.join(folder, "*.json")) + storage.match(
        storage.join(folder, "*" + storage.TEMPORARY_SUFFIX)
    )
    storage.delete([path for path in leftovers if path != record])
    _delete_present([record])


def _delete_present(paths: Iterable[str]) -> None:
    storage.delete([path for path in paths if storage.exists(path)])


def markers(output: str) -> list[dict[str, Any]]:
    """The completed markers of a folder; those that are not ours are left out."""
    paths = storage.match(storage.join(output, metadata.completed_file("*")))
    return [marker for path in paths if _is_ours(marker := storage.read_json(path))]


def _is_ours(marker: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
    return metadata.is_marker(marker) and isinstance(marker.get("num_bytes"), int)
