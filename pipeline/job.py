"""The job, and the only place that wires its graph.

    parts of the input ── rows ── packs by shard ──┐
                            every shard's number ───┴─ all rows of a shard ──┬── content keys
        ── images fetched, shard written, shard committed ── commits summed ──┘   ── notices
        ── split published

Rows are shuffled, pixels are not: what goes through the grouping is tens of bytes a row.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import apache_beam as beam
import pyarrow as pa
from apache_beam import pvalue
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import shared

from pipeline import (
    duplicates,
    local_runner,
    metadata,
    planning,
    progress,
    publish,
    rows,
    run_state,
    sharding,
    storage,
    survey,
)
from pipeline.fetch import Fetcher
from pipeline.held_out import HeldOut
from pipeline.merging import unpacked
from pipeline.options import ShardingOptions
from pipeline.recipe import FASTEVAL, Selection, is_training
from pipeline.records import ImageRow
from pipeline.sharding import Commit, Duplicate, Plan, ShardError, ShardWriter
from pipeline.sources.source import Part, Source, SourceError
from pipeline.statistics import SumCommits, leading_reasons, unknown_labels

_SURVEY_GROUP_ROWS = 50_000


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the run of a split ended."""

    state: run_state.State  # what stood there when it began
    summary: dict[str, Any]  # as in the completed marker
    problem: str | None  # why the split is not completed
    warnings: tuple[str, ...]
    dead_letters_path: str

    def text(self) -> str:
        """The run's result, for people."""
        found = self.summary
        ending = "is not complete" if self.problem else "is complete"
        if self.state is run_state.State.COMPLETED:
            ending = "is already complete"
        place = f", in {self.dead_letters_path}" if found["dead_letters"] else ""
        lines = {
            "images": f"{found['num_examples']:,} of {found['num_images']:,}"
            + (f", from {found['num_rows']:,} rows" * (found["num_rows"] != found["num_images"])),
            "shards": f"{len(found['shard_lengths']):,}, {found['num_bytes'] / 1e6:,.1f} MB",
            "classes": f"{found['num_classes_with_examples']:,} with examples",
            "labels": f"{found['labels_per_image']:.2f} an image"
            + (f", {found['negatives_per_image']:.2f} verified negatives"
               * bool(found["num_negatives"])),
            "labels unknown": found["num_unknown_labels"] and unknown_labels(found),
            "passed over": found["num_passed_over"]
            and f"{found['num_passed_over']:,} annotations that do not count",
            "conflicts": found["num_conflicts"] and f"{found['num_conflicts']:,} labels",
            "left out": found["num_left_out"] and f"{found['num_left_out']:,} with too few labels",
            "duplicates": f"{found['num_duplicates']:,} rows merged into another of the same id, "
            f"{found['num_content_duplicates']:,} images into another of the same content",
            "held out": found["num_held_out"]
            and f"{found['num_held_out']:,} images whose content an evaluation split holds",
            "salvaged": found["num_salvaged"]
            and f"{found['num_salvaged']:,} images without an end marker",
            "dead letters": f"{leading_reasons(found)}{place}",
            "fingerprint": found["fingerprint"][:16],
        }  # fmt: skip
        return "\n".join(
            [
                f"split {found['split']!r} {ending}",
                *(f"  {name:<14} {value}" for name, value in lines.items() if value),
                *(f"  warning: {warning}" for warning in self.warnings),
            ]
        )


class ReadRows(beam.DoFn):
    """Parts of the input to (group, pack) of the rows that a split may take."""

    def __init__(
        self, source: Source, selection: Selection, num_groups: int, unpacked_dir: str
    ) -> None:
        self._source = source
        self._selection = selection
        self._num_groups = num_groups
        self._unpacked_dir = unpacked_dir

    def process(self, part: Part) -> Iterator[tuple[int, bytes]]:
        try:
            for batch in self._source.batches(part, self._unpacked_dir):
                hashed = rows.hashes(batch.keys)
                taken = self._selection.may_take(hashed.split)
                groups = rows.groups_of(hashed.order[taken], self._num_groups)
                yield from rows.packs(batch.lines.filter(pa.array(taken)), groups)
        except (SourceError, OSError) as error:
            raise ShardError(f"cannot read {part.path}: {error}") from error


class WriteShards(beam.DoFn):
    """(shard, packs) to commits; notices are multimaps by shard."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._shared = shared.Shared()

    def setup(self) -> None:
        if sharding.codec_versions() != self._plan.recipe.codecs:
            raise ShardError(
                f"this worker has {sharding.codec_versions()}, the launcher "
                f"{self._plan.recipe.codecs}: install the same versions"
            )
        self._fetcher = Fetcher(self._plan.images, self._plan.allow_hosts)
        splits = dict(self._plan.recipe.held_out)
        # One for all threads of a process: it may hold millions of images.
        self._held_out = self._shared.acquire(lambda: HeldOut(self._plan.output, splits))

    def process(
        self, element: tuple[int, Iterable[bytes]], notices: Any = None
    ) -> Iterator[Commit]:
        shard, packs = element
        found = list(notices[shard]) if notices is not None else []
        more = [rows.decode(notice.decode()) for notice in found if isinstance(notice, bytes)]
        writer = ShardWriter(self._plan, shard, self._fetcher, self._held_out.split_of)
        commit = writer.write(
            unpacked(packs),
            [row for row in more if isinstance(row, ImageRow)],
            [Duplicate(*notice) for notice in found if isinstance(notice, tuple)],
            [notice for notice in found if isinstance(notice, str)],
        )
        Metrics.counter("pipeline", "images").inc(commit.num_examples)
        for letter in commit.dead_letters:
            Metrics.counter("pipeline", f"dead/{letter.reason}").inc()
        yield commit


def _grouped(
    pipeline: beam.Pipeline, inputs: planning.Inputs, selection: Selection, num_groups: int
) -> beam.PCollection:
    """(group, packs) of the rows that a split may take, for every group."""
    packs = (
        pipeline
        | "Parts" >> beam.Create(inputs.inventory.parts)
        | "SpreadParts" >> beam.Reshuffle()
        | "ReadRows"
        >> beam.ParDo(ReadRows(inputs.source, selection, num_groups, inputs.unpacked_dir))
    )
    groups = (
        pipeline
        | "Groups" >> beam.Create(range(num_groups))
        | "EmptyGroups" >> beam.Map(lambda group: (group, b""))
    )
    return (packs, groups) | "RowsAndGroups" >> beam.Flatten() | "GroupRows" >> beam.GroupByKey()


def build(
    pipeline: beam.Pipeline, inputs: planning.Inputs, run: planning.Run, limits: publish.Limits
) -> None:
    """Adds the run of a split to a Beam pipeline."""
    plan = run.plan
    shards = _grouped(pipeline, inputs, plan.recipe.selection, plan.recipe.num_shards)
    notices = []
    if plan.recipe.deduplicate != "off":
        found = shards | "FindNotices" >> duplicates.FindNotices(plan)
        notices = [pvalue.AsMultiMap(found)]
    _ = (
        shards
        | "WriteShards" >> beam.ParDo(WriteShards(plan), *notices)
        | "SumCommits" >> beam.CombineGlobally(SumCommits())
        | "Publish" >> beam.ParDo(publish.Publish(plan, run.vocabulary, limits))
    )


def run(options: ShardingOptions, beam_options: PipelineOptions) -> Iterator[Outcome]:
    """Writes the splits, or what is missing of them; how each ended, one after the other.

    Raises OptionsError or RefusedError where it must not start, ShardError where it cannot go on.
    """
    inputs = planning.read_inputs(options)
    run_state.check_writable(options.output)
    found = None
    if inputs.vocabulary is None or inputs.splits_need_survey:
        found = conduct_survey(inputs, beam_options)
    all_in_shards = True
    for split_run in planning.plan_runs(inputs, found):
        try:
            planned = split_run.plan()
        except OSError as error:  # without the markers, evaluation would not be held out
            raise ShardError(f"cannot read what stands in {options.output}: {error}") from error
        outcome = _write_split(planned, inputs, beam_options)
        all_in_shards &= not outcome.summary["dead_letters"]
        yield outcome
        if outcome.problem:
            break  # training would not be kept apart from it
    if all_in_shards:  # else dead letters may point there
        storage.delete_folder(inputs.unpacked_dir)


def conduct_survey(inputs: planning.Inputs, beam_options: PipelineOptions) -> survey.Survey:
    """What a survey of the rows finds, or has found earlier; raises ShardError."""
    found = survey.read(inputs.survey_path)
    if found is None:
        storage.delete(storage.match(f"{inputs.survey_path}.*{storage.TEMPORARY_SUFFIX}"))
        pipeline = local_runner.new_pipeline(beam_options)
        num_groups = -(-inputs.inventory.num_rows // _SURVEY_GROUP_ROWS)
        grouped = _grouped(pipeline, inputs, Selection(), num_groups)
        survey.build(grouped, inputs.question(), inputs.survey_path)
        with progress.shown(progress.of_survey(inputs.inventory.num_rows)):
            _execute(pipeline)
        found = survey.read(inputs.survey_path)
    if found is None:
        raise ShardError(f"the survey of the rows has not written {inputs.survey_path}")
    return found


def _write_split(
    run: planning.Run, inputs: planning.Inputs, beam_options: PipelineOptions
) -> Outcome:
    options = inputs.options
    split = run.plan.recipe.split
    # A list that is built from the labels leaves out what it shall.
    max_unknown_rate = options.labels.max_unknown_rate if options.labels.classes else 1.0
    limits = publish.Limits(options.max_failure_rate, max_unknown_rate)
    with run_state.begin(run, options.overwrite) as state:
        if state is not run_state.State.COMPLETED:
            storage.delete_temporary(inputs.unpacked_dir)  # which the lock makes ours
            pipeline = local_runner.new_pipeline(beam_options)
            build(pipeline, inputs, run, limits)
            with progress.shown(progress.of_shards(run)):
                _execute(pipeline, run.plan)
        try:
            summary = publish.read_summary(options.output, split)
        except FileNotFoundError as error:
            raise ShardError(
                f"the workers have written nothing into --output={options.output}: they must reach "
                f"it by this very path ({error})"
            ) from error
    return Outcome(
        state,
        summary,
        publish.problem(summary, limits),
        (*run.warnings, *_warnings(options, summary)),
        storage.join(options.output, metadata.dead_letters_file(split)),
    )


def _warnings(options: ShardingOptions, summary: dict[str, Any]) -> Iterator[str]:
    """What to be told of besides the numbers."""
    if summary["num_other_files"]:
        yield (
            f"{summary['num_other_files']:,} files have the id of another, and are not read: are "
            "the ids unique? (--id_column)"
        )
    if summary.get("num_not_compared"):  # which splits of before do not have
        yield (
            f"{summary['num_not_compared']:,} images could not be read when duplicates were looked "
            "for, and could when they were written: they may be in the split twice"
        )
    unlabelled = summary["labels_per_image_histogram"].get("0", 0)
    if unlabelled and not is_training(summary["split"]):
        yield f"{unlabelled:,} images have no label of the class list"
    num_drawn = options.splits.fasteval or 0
    if summary["split"] == FASTEVAL and summary["num_examples"] < num_drawn:
        yield f"{num_drawn:,} images were drawn, and {summary['num_examples']:,} are written"


def _execute(pipeline: beam.Pipeline, plan: Plan | None = None) -> None:
    def described(death: str) -> str:
        shards = sharding.being_written(plan) if plan else []
        place = f" while {' and '.join(shards)} were being written" if shards else ""
        return f"a worker process died{place}: {death}"

    def give_up(death: str) -> NoReturn:
        print(
            f"{described(death)}. The same command goes on from here", file=sys.stderr, flush=True
        )
        os._exit(75)  # nothing else ends Beam's waiting; workers end with this process

    try:
        with local_runner.ended_by_dead_worker(give_up):
            local_runner.run(pipeline)
    except local_runner.WorkerDiedError as error:
        raise ShardError(described(str(error))) from error
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
