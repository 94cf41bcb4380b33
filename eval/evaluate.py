"""Class-weighted MAP@100 of a checkpoint, of each new one in training, or of predictions.

    python -m eval.evaluate --workdir=RUN --data=OUT --split=eval --class_weights=weights.tsv
    python -m eval.evaluate ... --watch
    python -m eval.evaluate --model=network.keras --data=OUT --output=DIR
    python -m eval.evaluate --predictions=scores.npy --ids=ids.txt --classes=classes.tsv \\
        --labels=truth.csv --output=DIR

Prints a table and writes report.json and report.html into RUN/eval/SPLIT, or into --output.
Every file is written whole, so that this command can be ended at any moment and started again.
"""

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from eval import class_weights, table, watch
from eval.checkpoint_scores import CheckpointScores
from eval.comparison import ComparisonError
from eval.evaluation_set import EvaluationError, EvaluationSet
from eval.evaluator import Count, Evaluator, RunEvaluator, count_whole
from eval.ground_truth import GroundTruthError
from eval.options import LATEST, parse
from eval.prediction_scores import PredictionScores, open_predictions
from eval.processes import Processes, WorkerError
from eval.report import write_page
from eval.results import Results
from eval.saved_model_scores import SavedModelScores
from eval.scores import Scores
from eval.surroundings import Surroundings
from model import checkpoint
from model.config import ConfigError
from model.shard_cache import FetchError
from pipeline import labels, metadata
from pipeline.labels import Vocabulary

EXIT_USAGE = 2
EXIT_TRY_AGAIN = 75
USER_ERRORS = (
    ComparisonError,
    EvaluationError,
    GroundTruthError,
    OSError,
    checkpoint.CheckpointError,
    class_weights.ClassWeightsError,
    ConfigError,
    labels.LabelError,
    metadata.MetadataError,
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parse(argv)
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of optional packages when imported
    try:
        if options.workdir:
            results = Results(options.output or Path(options.workdir) / "eval" / options.split)
            report = evaluate_run(options, results)
        else:
            results = Results(options.output)
            report = evaluate_scores(options, results)
    except (
        watch.NothingNewError,
        WorkerError,
        FetchError,
        checkpoint.UnreachableError,
        metadata.UnreachableError,
    ) as error:
        return _fail(error, EXIT_TRY_AGAIN)
    except USER_ERRORS as error:
        return _fail(error, EXIT_USAGE)
    print(table.render(report))
    print(f"\n{results.report_path}\n{results.page_path}")
    return 0


def evaluate_run(options: argparse.Namespace, results: Results) -> dict[str, Any]:
    """Evaluates checkpoints of a training run; returns the report that is shown."""
    evaluation_set = EvaluationSet.read(options.data, options.split, options.class_weights)
    if options.watch:
        watch.wait_for_run(options.workdir, options.watch_timeout)
    surroundings = Surroundings.read(
        options.workdir, options.hierarchy, options.compare_with, evaluation_set
    )
    with counting(options) as count:
        evaluator = RunEvaluator(
            options.workdir,
            evaluation_set,
            options.parameters,
            options.batch_size,
            evaluation_set.class_ids(options.curves),
            count,
        )
        if options.watch:
            return watch.watch(evaluator, results, surroundings, options.watch_timeout)
        return evaluate_once(evaluator, results, surroundings, options.checkpoint)


def evaluate_scores(options: argparse.Namespace, results: Results) -> dict[str, Any]:
    """Evaluates what is in no run's folder: a checkpoint, a saved model, or predictions."""
    evaluation_set = _evaluation_set(options)
    surroundings = Surroundings.read(None, options.hierarchy, options.compare_with, evaluation_set)
    scores: Scores
    if options.model:
        scores = SavedModelScores(options.model, options.score_space, options.batch_size)
    elif not options.predictions:
        scores = CheckpointScores(options.parameters, options.batch_size)
        scores.choose(checkpoint.at(options.checkpoint))
    else:
        predictions = open_predictions(options.predictions, options.ids, evaluation_set.vocabulary)
        scores = PredictionScores(predictions, options.score_space, options.batch_size)
    parameters = scores.provenance()["parameters"]
    results.check_conditions(evaluation_set.conditions(parameters))
    with counting(options) as count:
        evaluator = Evaluator(
            evaluation_set,
            _training_counts(options, evaluation_set),
            evaluation_set.class_ids(options.curves),
            count,
        )
        evaluation = evaluator.evaluate(scores)
    if isinstance(scores, PredictionScores):
        scores.check_none_left(evaluation.influence.image_ids, evaluation_set.data)
    results.add(evaluation, show=True)
    write_page(results, surroundings)
    return evaluation.report


def _training_counts(
    options: argparse.Namespace, evaluation_set: EvaluationSet
) -> np.ndarray | None:
    """From --class_counts, or those of the dataset's training split; None where there are none."""
    path = options.class_counts
    if path is None and options.data:
        path = epath.Path(options.data) / metadata.class_counts_file("train")
        path = path if path.exists() else None
    return path and labels.read_class_counts(path, evaluation_set.vocabulary)


def _evaluation_set(options: argparse.Namespace) -> EvaluationSet:
    """The images of --data or --labels, of the classes that --classes lists, if it is given."""
    if options.data:
        evaluation_set = EvaluationSet.read(options.data, options.split, options.class_weights)
        if options.classes:
            evaluation_set.check_same_classes(Vocabulary.read(options.classes), options.classes)
        return evaluation_set
    listed = Vocabulary.read(options.classes)
    evaluation_set = EvaluationSet.of_manifest(options.labels, listed, options.class_weights)
    if evaluation_set.manifest is not None and evaluation_set.manifest.num_unknown_labels:
        print(
            f"eval.evaluate: {evaluation_set.manifest.num_unknown_labels:,} labels of "
            f"{evaluation_set.data} are outside the class list and left out",
            file=sys.stderr,
        )
    return evaluation_set


@contextlib.contextmanager
def counting(options: argparse.Namespace) -> Iterator[Count]:
    """How images are gone over: in this process, or in several, which end with the block."""
    if options.num_processes == 1:
        yield count_whole
    else:
        with Processes(options.num_processes, options.process_timeout) as processes:
            yield processes.count


def evaluate_once(
    evaluator: RunEvaluator, results: Results, surroundings: Surroundings, wanted: str
) -> dict[str, Any]:
    """Evaluates one checkpoint, writes its results, and returns the report."""
    results.check_conditions(evaluator.conditions())
    workdir = evaluator.workdir
    chosen = choose(checkpoint.list_checkpoints(workdir), wanted, workdir)
    evaluation = evaluator.evaluate(chosen)
    results.add(evaluation, show=True)
    write_page(results, surroundings)
    return evaluation.report


def choose(
    checkpoints: list[checkpoint.Checkpoint], wanted: str, workdir: str
) -> checkpoint.Checkpoint:
    """The checkpoint asked for, "latest" or a step; EvaluationError names those that are there."""
    if not checkpoints:
        raise EvaluationError(
            f"{workdir} has no finished checkpoint yet. Use --watch to wait for the first."
        )
    if wanted == LATEST:
        return checkpoints[-1]
    for candidate in checkpoints:
        if str(candidate.step) == wanted:
            return candidate
    steps = ", ".join(str(candidate.step) for candidate in checkpoints[-10:])
    raise EvaluationError(f"{workdir} has no checkpoint of step {wanted}. There are: {steps}.")


def _fail(error: Exception, exit_code: int) -> int:
    print(f"eval.evaluate: {error}", file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    # Ctrl-C and SIGTERM end the process at once, even inside TensorFlow: no file is half written.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
