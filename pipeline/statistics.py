"""What a split holds in numbers: the commits of its shards, summed, and whether they may stand."""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from pipeline import schema
from pipeline.sharding import Commit, Plan

_SUMS = (  # fields of Commit
    "num_rows", "num_bad_rows", "num_images", "num_duplicates", "num_other_files",
    "num_left_out", "num_examples", "num_not_compared", "num_salvaged", "num_conflicts",
    "num_bytes", "num_known_labels", "num_unknown_labels", "num_negatives", "num_passed_over",
)  # fmt: skip
_COUNTERS = ("class_counts", "labels_per_image", "shorter_sides", "unknown_labels")
_NAMED_UNKNOWN_LABELS = 20  # in the summary


@dataclasses.dataclass
class SplitStatistics:
    """Sums over the shards of a split."""

    sums: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    counters: dict[str, collections.Counter[Any]] = dataclasses.field(
        default_factory=lambda: {name: collections.Counter() for name in _COUNTERS}
    )
    dead_letters: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    shard_lengths: dict[int, int] = dataclasses.field(default_factory=dict)
    # (bytes, sha256) of each shard's file
    shard_files: dict[int, tuple[int, str]] = dataclasses.field(default_factory=dict)

    @property
    def class_counts(self) -> collections.Counter[int]:
        return self.counters["class_counts"]

    def add(self, commit: Commit) -> None:
        for name in _SUMS:
            self.sums[name] += getattr(commit, name)
        for name in _COUNTERS:
            self.counters[name].update(getattr(commit, name))
        self.sums["num_held_out"] += sum(bool(found.split) for found in commit.duplicates)
        num_same = sum(not found.split for found in commit.duplicates)
        self.sums["num_content_duplicates"] += num_same - commit.num_other_files
        self.dead_letters.update(letter.reason for letter in commit.dead_letters)
        self.shard_lengths[commit.shard] = commit.num_examples
        self.shard_files[commit.shard] = commit.num_bytes, commit.sha256

    def merge(self, other: "SplitStatistics") -> None:
        self.sums.update(other.sums)
        for name in _COUNTERS:
            self.counters[name].update(other.counters[name])
        self.dead_letters.update(other.dead_letters)
        self.shard_lengths.update(other.shard_lengths)  # no shard is in both
        self.shard_files.update(other.shard_files)

    def to_dict(self, plan: Plan) -> dict[str, Any]:
        """What the completed marker says; see pipeline.metadata."""
        num_labels = self.class_counts.total()
        num_examples = max(1, self.sums["num_examples"])
        names = (*_SUMS, "num_content_duplicates", "num_held_out")
        return {
            "format_version": schema.FORMAT_VERSION,
            "split": plan.recipe.split,
            **{name: self.sums[name] for name in names},
            "shard_lengths": [self.shard_lengths[shard] for shard in sorted(self.shard_lengths)],
            "labels_per_image": num_labels / num_examples,
            "negatives_per_image": self.sums["num_negatives"] / num_examples,
            "labels_per_image_histogram": _ordered(self.counters["labels_per_image"]),
            "source_shorter_sides": _ordered(self.counters["shorter_sides"]),
            "num_classes_with_examples": len(self.class_counts),
            "unknown_labels": dict(_most_frequent(self.counters["unknown_labels"])),
            "dead_letters": dict(sorted(self.dead_letters.items())),
            "fingerprint": plan.fingerprint,
            "recipe": plan.recipe.to_dict(),
        }


class SumCommits(beam.CombineFn):
    """Commits to SplitStatistics."""

    def create_accumulator(self) -> SplitStatistics:
        return SplitStatistics()

    def add_input(self, accumulator: SplitStatistics, commit: Commit) -> SplitStatistics:
        accumulator.add(commit)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[SplitStatistics]) -> SplitStatistics:
        total = SplitStatistics()
        for accumulator in accumulators:
            total.merge(accumulator)
        return total

    def extract_output(self, accumulator: SplitStatistics) -> SplitStatistics:
        return accumulator


def _ordered(counter: collections.Counter[int]) -> dict[str, int]:
    return {str(key): counter[key] for key in sorted(counter)}


def _most_frequent(labels: dict[str, int]) -> list[tuple[str, int]]:
    ordered = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    return ordered[:_NAMED_UNKNOWN_LABELS]


def num_lost(summary: dict[str, Any]) -> int:
    """Images of the split that did not end in a shard, and rows that could not be read."""
    return sum(summary["dead_letters"].values())


def failure_rate(summary: dict[str, Any]) -> float:
    return num_lost(summary) / max(1, summary["num_images"] + summary["num_bad_rows"])


def unknown_labels(summary: dict[str, Any]) -> str:
    """`39 of 40 (98%)`: label occurrences that the class list does not have."""
    unknown = summary["num_unknown_labels"]
    total = unknown + summary["num_known_labels"]
    return f"{unknown:,} of {total:,} ({unknown / max(1, total):.0%})"


def leading_reasons(summary: dict[str, Any]) -> str:
    """`3 not_found, 1 truncated_jpeg`: the most frequent first."""
    counts = collections.Counter(summary["dead_letters"])
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common(5)) or "none"
