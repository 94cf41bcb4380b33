"""The lists that stand beside a split's shards, a line an image: made of the shards' commits."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline import metadata, storage
from pipeline.dead_letter import DeadLetter
from pipeline.recipe import is_training
from pipeline.sharding import Commit, Content, Duplicate


class Table(NamedTuple):
    """One of the CSV files."""

    file_of: Callable[[str], str]  # file name by split
    columns: tuple[str, ...]
    field: str  # of Commit, which holds the lines

    @property
    def header(self) -> bytes:
        return storage.csv_lines([self.columns])

    def lines(self, commit: Commit) -> bytes:
        """What a shard adds."""
        found: tuple[tuple[Any, ...], ...] = getattr(commit, self.field)
        return storage.csv_lines(found)


_EVERY_SPLIT = (
    Table(metadata.dead_letters_file, DeadLetter._fields, "dead_letters"),
    Table(metadata.duplicates_file, Duplicate._fields, "duplicates"),
)
_EVALUATION = Table(metadata.contents_file, Content._fields, "contents")


def tables(split: str) -> tuple[Table, ...]:
    """Those of a split."""
    return _EVERY_SPLIT if is_training(split) else (*_EVERY_SPLIT, _EVALUATION)
