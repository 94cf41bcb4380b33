"""What a split holds in numbers: the commits of its shards, summed, and whether they may stand."""

import collections
import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from pipeline import schema
from pipeline.dead_letter import UNKNOWN_LABEL
from pipeline.sharding import NUM_UNKNOWN_LABELS, Commit, Plan, recipe_to_dict


@dataclasses.dataclass
class SplitStatistics:
    """Sums over the shards of a split."""

    num_rows: int = 0
    num_duplicates: int = 0
    num_examples: int = 0
    num_bytes: int = 0
    num_known_labels: int = 0
    num_unknown_labels: int = 0
    unknown_labels: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    shard_lengths: dict[int, int] = dataclasses.field(default_factory=dict)
    class_counts: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    dead_letters: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    shards_with_dead_letters: list[int] = dataclasses.field(default_factory=list)

    def add(self, commit: Commit) -> None:
        self.num_rows += commit.num_rows
        self.num_duplicates += commit.num_duplicates
        self.num_examples += commit.num_examples
        self.num_bytes += commit.num_bytes
        self.num_known_labels += commit.num_known_labels
        self.num_unknown_labels += commit.num_unknown_labels
        self.unknown_labels.update(commit.unknown_labels)
        self.shard_lengths[commit.shard] = commit.num_examples
        self.class_counts.update(commit.class_counts)
        self.dead_letters.update(letter.reason for letter in commit.dead_letters)
        if commit.dead_letters:
            self.shards_with_dead_letters.append(commit.shard)

    def merge(self, other: "SplitStatistics") -> None:
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, dict):
                mine.update(theirs)  # a Counter adds; no shard is in both
            else:
                setattr(self, field.name, mine + theirs)

    def to_dict(self, plan: Plan) -> dict[str, Any]:
        """What the completed marker says; see pipeline.metadata."""
        num_labels = sum(self.class_counts.values())
        return {
            "format_version": schema.FORMAT_VERSION,
            "split": plan.recipe.split,
            "num_examples": self.num_examples,
            "num_bytes": self.num_bytes,
            "shard_lengths": [self.shard_lengths[shard] for shard in sorted(self.shard_lengths)],
            "labels_per_image": num_labels / max(1, self.num_examples),
            "num_rows": self.num_rows,
            "num_duplicates": self.num_duplicates,
            "num_known_labels": self.num_known_labels,
            "num_unknown_labels": self.num_unknown_labels,
            "unknown_labels": dict(_most_frequent(self.unknown_labels)),
            "dead_letters": dict(sorted(self.dead_letters.items())),
            "fingerprint": plan.fingerprint,
            "recipe": recipe_to_dict(plan.recipe),
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


def _most_frequent(labels: dict[str, int]) -> list[tuple[str, int]]:
    ordered = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    return ordered[:NUM_UNKNOWN_LABELS]


def num_lost(summary: dict[str, Any]) -> int:
    """Rows that were to become an image of the split and did not."""
    reasons = summary["dead_letters"].items()
    return sum(count for reason, count in reasons if reason != UNKNOWN_LABEL)


def failure_rate(summary: dict[str, Any]) -> float:
    return num_lost(summary) / max(1, summary["num_rows"] - summary["num_duplicates"])


def unknown_labels(summary: dict[str, Any]) -> str:
    """`39 of 40 (98%)`: label occurrences that the class list does not have."""
    unknown = summary["num_unknown_labels"]
    total = unknown + summary["num_known_labels"]
    return f"{unknown:,} of {total:,} ({unknown / max(1, total):.0%})"


def leading_reasons(summary: dict[str, Any]) -> str:
    """`3 not_found, 1 truncated_jpeg`: the most frequent first."""
    counts = collections.Counter(summary["dead_letters"])
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common(5)) or "none"
