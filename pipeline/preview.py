"""What a run would write: shards, rows and bytes a shard, skew. Nothing is written.

Reads every row, as the job does, in this process, and keeps no row but a sample of 32, whose images
are prepared to estimate bytes. So it needs the same memory for a thousand rows and for a billion.
Only a drawn split, splits in a column, and images of several rows take a survey before, as the job.
"""

import dataclasses
import heapq
import tempfile
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import job, planning, rows, schema
from pipeline.fetch import Fetcher
from pipeline.images import ImageError, prepare
from pipeline.options import ShardingOptions
from pipeline.recipe import Selection
from pipeline.records import BadRow, ImageRow

_SAMPLED = 32


@dataclasses.dataclass
class Preview:
    """What is known of a split after the rows were read."""

    split: str
    rows_by_shard: np.ndarray  # int64 [num_shards]
    mean_bytes: float | None = None  # of a record; None where no image of the sample can be read
    num_unreadable: int = 0  # images of the sample
    num_bad_rows: int = 0  # rows of the sample

    def text(self) -> str:
        """For people."""
        rows_by_shard = self.rows_by_shard
        mean = rows_by_shard.mean()
        skew = rows_by_shard.max() / max(mean, 1e-9)
        spread = f"{rows_by_shard.min():,} to {rows_by_shard.max():,}, {mean:,.0f} on average"
        lines = [
            f"split {self.split!r} would have",
            f"  rows           {rows_by_shard.sum():,}",
            f"  shards         {len(rows_by_shard):,}",
            f"  rows a shard   {spread}",
            f"  skew           {skew:.3f} (largest shard / average)",
        ]
        if self.mean_bytes is not None:
            lines.append(
                f"  bytes a shard  about {self.mean_bytes * mean / 1e6:,.1f} MB, "
                f"{self.mean_bytes * rows_by_shard.sum() / 1e9:,.2f} GB in all (by {_SAMPLED} "
                "images, a row each)"
            )
        if self.num_unreadable:
            lines.append(f"  unreadable     {self.num_unreadable} of {_SAMPLED} sampled images")
        return "\n".join(lines)


def preview(options: ShardingOptions, beam_options: PipelineOptions) -> Iterator[Preview]:
    """What each split would be; raises OptionsError, and ShardError where a survey fails."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = planning.read_inputs(dataclasses.replace(options, output=folder))
        found_by_survey = None
        if inputs.splits_need_survey:
            found_by_survey = job.conduct_survey(inputs, beam_options)
        for name, split in planning.plan_splits(inputs, found_by_survey).items():
            found = Preview(name, np.zeros(split.num_shards, np.int64))
            sample: list[tuple[int, bytes]] = []
            for batch in _batches(inputs, folder):
                hashed, lines = _selected(batch, split.selection)
                groups = rows.groups_of(hashed, split.num_shards)
                found.rows_by_shard += np.bincount(groups, minlength=split.num_shards)
                sample = _sampled(sample, hashed, lines)
            _weigh(found, options, (rows.decode(line.decode()) for _, line in sample))
            yield found


def _batches(inputs: planning.Inputs, unpacked_dir: str) -> Iterator[rows.Batch]:
    for part in inputs.inventory.parts:
        yield from inputs.source.batches(part, unpacked_dir)


def _selected(batch: rows.Batch, selection: Selection) -> tuple[np.ndarray, pa.LargeBinaryArray]:
    """(order hashes, lines) of the rows that a split may take."""
    hashed = rows.hashes(batch.keys)
    taken = selection.may_take(hashed.split)
    if selection.cell is not None:
        taken &= np.array([cell == selection.cell for cell in batch.splits or ()], bool)
    return hashed.order[taken], batch.lines.filter(pa.array(taken))


def _sampled(
    sample: list[tuple[int, bytes]], hashed: np.ndarray, lines: pa.LargeBinaryArray
) -> list[tuple[int, bytes]]:
    """The rows of the lowest hashes, so far."""
    lowest = np.argsort(hashed)[:_SAMPLED]
    new = [(int(hashed[index]), lines[int(index)].as_py()) for index in lowest]
    return heapq.nsmallest(_SAMPLED, sample + new)


def _weigh(found: Preview, options: ShardingOptions, sample: Iterable[ImageRow | BadRow]) -> None:
    """Prepares the sampled images."""
    fetcher = Fetcher(options.source.images, options.allow_hosts)
    sizes = []
    for row in sample:
        if isinstance(row, BadRow) or not row.uri:
            found.num_bad_rows += 1
            continue
        try:
            prepared = prepare(fetcher.fetch(row.uri), options.images, row.rotation)
        except ImageError:
            found.num_unreadable += 1
            continue
        example = schema.Example(row.image_id, prepared.image, (), (), ())
        sizes.append(len(schema.encode(example)))
    if sizes:
        found.mean_bytes = sum(sizes) / len(sizes)
