"""The job, and the only place that wires its graph.

    label files ── rows ── labels looked up ── by shard ──┐
                                  every shard's number ───┴─ one list of rows a shard
        ── images fetched, shard written, shard committed ── commits summed ── split published

Rows are shuffled, pixels are not: what goes through the grouping is about a hundred bytes an image.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import local_runner, metadata, publish, run_state, storage
from pipeline.options import ShardingOptions
from pipeline.progress import Progress
from pipeline.records import BadRow, ImageRef
from pipeline.sharding import Commit, Plan, Row, ShardError, ShardWriter, codec_versions, shard_of
from pipeline.sources import manifest
from pipeline.statistics import SumCommits, leading_reasons, unknown_labels


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    state: run_state.State  # what stood there when it began
    summary: dict[str, Any]  # as in the completed marker
    problem: str | None  # why the split is not completed
    dead_letters_path: str

    def text(self) -> str:
        """The run's result, for people."""
        found = self.summary
        ending = "is not complete" if self.problem else "is complete"
        if self.state is run_state.State.COMPLETED:
            ending = "is already complete"
        place = f", in {self.dead_letters_path}" if found["dead_letters"] else ""
        lines = [
            f"split {found['split']!r} {ending}",
            f"  images        {found['num_examples']:,} of {found['num_rows']:,} rows",
            f"  shards        {len(found['shard_lengths']):,}, {found['num_bytes'] / 1e6:,.1f} MB",
            f"  labels        {found['labels_per_image']:.2f} an image",
            f"  duplicates    {found['num_duplicates']:,} rows merged into another of the same id",
            f"  dead letters  {leading_reasons(found)}{place}",
            f"  fingerprint   {found['fingerprint'][:16]}",
        ]
        if found["num_unknown_labels"]:
            lines.insert(4, f"  labels unknown {unknown_labels(found)}")
        return "\n".join(lines)


class ReadManifest(beam.DoFn):
    """Label files to ImageRefs and BadRows."""

    def __init__(self, format: manifest.Format) -> None:
        self._format = format

    def process(self, path: str) -> Iterator[ImageRef | BadRow]:
        return manifest.read(path, self._format)


class LookUpLabels(beam.DoFn):
    """ImageRefs to Rows, with class ids for labels; BadRows pass."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self._classes = classes

    def setup(self) -> None:
        self._index = {key: class_id for class_id, key in enumerate(self._classes)}

    def process(self, row: ImageRef | BadRow) -> Iterator[Row | BadRow]:
        if isinstance(row, BadRow):
            yield row
            return
        known = sorted({self._index[label] for label in row.labels if label in self._index})
        unknown = sorted({label for label in row.labels if label not in self._index})
        yield Row(row.image_id, row.uri, tuple(known), tuple(unknown), row.source)


class KeyByShard(beam.DoFn):
    """(shard, row) for each row, as plain tuples, which Beam encodes without pickling."""

    def __init__(self, num_shards: int) -> None:
        self._num_shards = num_shards

    def process(self, row: Row | BadRow) -> Iterator[tuple[int, tuple[Any, ...]]]:
        key = row.text if isinstance(row, BadRow) else row.image_id
        yield shard_of(key, self._num_shards), tuple(row)


class WriteShards(beam.DoFn):
    """(shard, rows) to commits."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def setup(self) -> None:
        if codec_versions() != self._plan.recipe.codecs:
            raise ShardError(
                f"this worker has {codec_versions()}, the launcher {self._plan.recipe.codecs}: "
                "install the same versions"
            )

    def process(self, element: tuple[int, Iterable[tuple[Any, ...]]]) -> Iterator[Commit]:
        shard, values = element
        rows = (
            Row(*value) if len(value) == len(Row._fields) else BadRow(*value)
            for value in values
            if value  # the empty tuple stands for the shard itself
        )
        commit = ShardWriter(self._plan, shard).write(rows)
        Metrics.counter("pipeline", "images").inc(commit.num_examples)
        for letter in commit.dead_letters:
            Metrics.counter("pipeline", f"dead/{letter.reason}").inc()
        yield commit


def build(pipeline: beam.Pipeline, run: run_state.Run, options: ShardingOptions) -> None:
    """Adds the job to a Beam pipeline."""
    plan = run.plan
    num_shards = plan.recipe.num_shards
    rows = (
        pipeline
        | "LabelFiles" >> beam.Create(run.label_files)
        | "SpreadFiles" >> beam.Reshuffle()
        | "ReadRows" >> beam.ParDo(ReadManifest(options.format))
        | "LookUpLabels" >> beam.ParDo(LookUpLabels(plan.classes))
        | "KeyByShard" >> beam.ParDo(KeyByShard(num_shards))
    )
    shards = (
        pipeline
        | "Shards" >> beam.Create(range(num_shards))
        | "EmptyShards" >> beam.Map(lambda shard: (shard, ()))
    )
    (
        (rows, shards)
        | "RowsAndShards" >> beam.Flatten()
        | "GroupByShard" >> beam.GroupByKey()
        | "WriteShards" >> beam.ParDo(WriteShards(plan))
        | "SumCommits" >> beam.CombineGlobally(SumCommits())
        | "Publish" >> beam.ParDo(publish.Publish(plan, run.vocabulary, options.max_failure_rate))
    )


def run(options: ShardingOptions, beam_options: PipelineOptions) -> Outcome:
    """Writes the split, or what is missing of it.

    Raises OptionsError or RefusedError where it must not start, ShardError where it cannot go on.
    """
    planned = run_state.plan_run(options)
    with run_state.begin(planned, options.overwrite) as state:
        if state is not run_state.State.COMPLETED:
            with Progress(planned):
                _execute(planned, options, beam_options)
        summary = publish.read_summary(options.output, options.split)
    return Outcome(
        state,
        summary,
        publish.problem(summary, options.max_failure_rate),
        storage.join(options.output, metadata.dead_letters_file(options.split)),
    )


def _execute(
    planned: run_state.Run, options: ShardingOptions, beam_options: PipelineOptions
) -> None:
    pipeline = local_runner.new_pipeline(beam_options)
    build(pipeline, planned, options)
    try:
        with local_runner.ended_by_dead_worker():
            pipeline.run().wait_until_finish()
    except local_runner.WorkerDiedError as error:
        raise ShardError(f"a worker process died: {error}") from error
    except RuntimeError as error:
        ours = _as_raised(error)
        if ours is None:
            raise
        raise ours from error


def _as_raised(error: RuntimeError) -> BaseException | None:
    """What was raised in a worker, where it is ours: Beam adds to its text, or keeps only that."""
    text = str(error)
    if text.startswith("KeyboardInterrupt"):
        return KeyboardInterrupt()
    name = f"{ShardError.__module__}.{ShardError.__qualname__}: "
    if not isinstance(error, ShardError):
        text = next((line.split(name)[1] for line in text.splitlines() if name in line), "")
    return ShardError(text.split(" [while running")[0]) if text else None
