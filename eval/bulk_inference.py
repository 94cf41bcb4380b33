"""Counts an evaluation as a Beam job, on the engines of the pipeline, and writes its predictions.

Each shard of the split is one element: its tally and gallery go into OUTPUT/parts, as those of
several processes do, and its top predictions beside them. The launcher merges them, to the same
bits as one process. OUTPUT is a folder or in an object store: workers count into folders of their
own, and copy what is whole there. What is wrong with the inputs comes back in a file as well, since
engines tell of exceptions in texts of their own.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from pyarrow import parquet

from eval import part_files
from eval.evaluation_set import EvaluationError, EvaluationSet, Part
from eval.evaluator import count
from eval.examples import Gallery
from eval.retrieval import retrieve, truth_of
from eval.scores import Batch, Scores
from eval.tally import Tally
from model import quiet, shard_cache
from model.checkpoint import CheckpointError, UnreachableError
from model.cluster import EXIT_TRY_AGAIN
from pipeline import local_runner, storage
from pipeline.sharding import ShardError

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("classes", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)
_PREDICTIONS = ".parquet"
_SUFFIXES = (_PREDICTIONS, *part_files.SUFFIXES)  # of a part; with the last one it is whole


class EngineError(RuntimeError):
    """The engine lost a worker or itself; starting again may help."""


class BulkInference:
    """A count, for `eval.evaluator`, that runs as a Beam job.

    Args:
        folder: gets predictions.parquet, and `parts` while the job runs: a local path or an
            address that `pipeline.storage` opens. All workers must reach it by this very name, and
            the data and the checkpoint by theirs.
        top: how many predictions of an image are written.
        options: Beam's; they name the engine.
        threads: of TensorFlow in each worker process; 0: one a core.
    """

    def __init__(self, folder: str, top: int, options: PipelineOptions, threads: int = 0):
        self._folder, self._top, self._options, self._threads = folder, top, options, threads

    @property
    def predictions_path(self) -> str:
        return storage.join(self._folder, "predictions.parquet")

    def count(self, scores: Scores, evaluation_set: EvaluationSet) -> tuple[Tally, Gallery]:
        """Goes once over all images.

        Raises EvaluationError for what is wrong with the inputs, EngineError, or OptionsError where
        no engine answers.
        """
        parts = evaluation_set.parts(len(evaluation_set.split.shard_paths))
        folder = storage.join(self._folder, "parts")
        storage.delete_folder(folder)
        task = Task(scores, evaluation_set, folder, self._top, self._threads)
        pipeline = local_runner.new_pipeline(self._options)
        _ = (
            pipeline
            | "Parts" >> beam.Create(list(enumerate(parts)))
            | "SpreadParts" >> beam.Reshuffle()
            | "CountParts" >> beam.ParDo(CountParts(task))
        )
        _run(pipeline)
        if storage.exists(task.failure_path):
            raise EvaluationError(storage.read_text(task.failure_path))
        written = set(storage.match(storage.join(folder, f"*{_SUFFIXES[-1]}")))
        whole = [task.file(number, _SUFFIXES[-1]) in written for number in range(len(parts))]
        if not all(whole):
            raise EvaluationError(
                f"The workers have written {sum(whole)} of {len(parts)} parts into {folder}: they "
                "must reach it by this very name."
            )
        tally, gallery = self._merged(task, len(parts))
        storage.delete_folder(folder)
        return tally, gallery

    def _merged(self, task: Task, num_parts: int) -> tuple[Tally, Gallery]:
        with (
            tempfile.TemporaryDirectory(prefix="parts-") as local,
            storage.write_atomically(self.predictions_path) as stream,
            parquet.ParquetWriter(stream, _SCHEMA) as writer,
        ):
            for number in range(num_parts):
                for suffix in _SUFFIXES:
                    storage.copy(task.file(number, suffix), f"{local}/{number}{suffix}")
                writer.write_table(parquet.read_table(f"{local}/{number}{_PREDICTIONS}"))
            return part_files.merged([Path(local) / str(number) for number in range(num_parts)])


@dataclasses.dataclass(frozen=True)
class Task:
    """What every worker is told."""

    scores: Scores
    evaluation_set: EvaluationSet
    folder: str
    top: int
    threads: int

    @property
    def failure_path(self) -> str:
        return storage.join(self.folder, "failure.txt")

    def scratch_folder(self) -> str | None:
        """Where a worker counts; what a killed one leaves below a local folder is swept later."""
        if not storage.is_local(self.folder):
            return None  # the system's
        os.makedirs(self.folder, exist_ok=True)
        return self.folder

    def file(self, number: int, suffix: str) -> str:
        """One of the files of a part."""
        return storage.join(self.folder, f"{number:05d}{suffix}")


class CountParts(beam.DoFn):
    """(number, Part) to nothing: what comes out is in files."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def setup(self) -> None:
        if self._task.threads:
            quiet.limit_threads(self._task.threads)

    def process(self, element: tuple[int, Part]) -> None:
        number, part = element
        task = self._task
        if storage.exists(task.failure_path):
            return
        with tempfile.TemporaryDirectory(prefix="part-", dir=task.scratch_folder()) as local:
            path = Path(local) / "part"
            try:
                with parquet.ParquetWriter(path.with_suffix(_PREDICTIONS), _SCHEMA) as writer:
                    scores = _Recorded(task.scores, writer, task.top)
                    tally, gallery = count(scores, task.evaluation_set, part, _count_images)
            except UnreachableError:
                raise  # the engine tries the part again
            except (EvaluationError, CheckpointError) as error:
                storage.write_text(task.failure_path, str(error))
                return
            part_files.write(path, tally, gallery)
            for suffix in _SUFFIXES:
                storage.copy(str(path.with_suffix(suffix)), task.file(number, suffix))


def _count_images(num_images: int) -> None:
    beam.metrics.Metrics.counter("eval", "images").inc(num_images)


class _Recorded:
    """Scores whose top predictions are written while they are counted."""

    def __init__(self, scores: Scores, writer: parquet.ParquetWriter, top: int):
        self._scores, self._writer, self._top = scores, writer, top

    def provenance(self) -> dict[str, Any]:
        return self._scores.provenance()

    def not_a_number(self, image_id: str, class_key: str) -> ValueError:
        return self._scores.not_a_number(image_id, class_key)

    def batches(self, evaluation_set: EvaluationSet, part: Part) -> Iterator[Batch]:
        classes = np.array(evaluation_set.vocabulary.classes)
        for batch in self._scores.batches(evaluation_set, part):
            yield batch  # first: what is no number ends the count here
            self._writer.write_table(_top_lists(batch, classes, self._top))


def _top_lists(batch: Batch, classes: np.ndarray, top: int) -> pa.Table:
    """Of each image the highest scores, best first; of equal ones the lower class id."""
    truth = truth_of(batch.labels, len(classes))
    found = retrieve(batch.scores, truth, top).best_first()
    ends = np.cumsum(np.bincount(found.rows, minlength=len(batch.image_ids)))
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.table(
        [
            pa.array(batch.image_ids, pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array(classes[found.classes], pa.string())),
            pa.ListArray.from_arrays(
                offsets, pa.array(batch.scores[found.rows, found.classes], pa.float32())
            ),
        ],
        schema=_SCHEMA,
    )


def _run(pipeline: beam.Pipeline) -> None:
    """Runs the job to its end; EngineError where a worker or the engine is gone."""

    def give_up(death: str) -> NoReturn:
        print(f"eval.beam_job: {_told(death)}", file=sys.stderr, flush=True)
        os._exit(EXIT_TRY_AGAIN)  # nothing else ends Beam's waiting; workers end with this process

    try:
        with local_runner.ended_by_dead_worker(give_up):
            local_runner.run(pipeline)
    except local_runner.WorkerDiedError as error:
        raise EngineError(_told(str(error))) from error
    except ShardError as error:  # the job service is gone
        raise EngineError(f"{error}. Start this command again.") from error
    except Exception as error:  # engines tell of a worker's exception in texts of their own
        found = shard_cache.error_in(f"{type(error).__name__}: {error}")
        if found is None:
            raise
        raise EngineError(str(found)) from error


def _told(death: str) -> str:
    return f"a worker process died: {death}. Start this command again."
