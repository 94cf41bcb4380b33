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

from eval import class_weights, table, watch
from eval.comparison import ComparisonError
from eval.evaluation_set import EvaluationError, EvaluationSet
from eval.evaluator import Count, Evaluator, RunEvaluator, check_same_classes, count_whole
from eval.ground_truth import GroundTruthError
from eval.prediction_scores import PredictionScores, open_predictions
from eval.processes import SILENCE, Processes, WorkerError
from eval.report import Surroundings, write_page
from eval.results import Results
from eval.saved_model_scores import SavedModelScores
from eval.scores import PROBABILITY_OF, Scores
from model import checkpoint
from model.config import ConfigError
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
    except (watch.NothingNewError, WorkerError) as error:
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
    """Evaluates what others trained: a saved model, or its predictions."""
    evaluation_set = _evaluation_set(options)
    surroundings = Surroundings.read(None, options.hierarchy, options.compare_with, evaluation_set)
    scores: Scores
    if options.model:
        scores = SavedModelScores(options.model, options.score_space, options.batch_size)
    else:
        predictions = open_predictions(options.predictions, options.ids, evaluation_set.vocabulary)
        scores = PredictionScores(predictions, options.score_space, options.batch_size)
    with counting(options) as count:
        evaluator = Evaluator(
            evaluation_set,
            _training_counts(options, evaluation_set),
            evaluation_set.class_ids(options.curves),
            count,
        )
        evaluation = evaluator.evaluate(scores)
    results.add(evaluation, show=True)
    write_page(results, surroundings)
    return evaluation.report


def _training_counts(
    options: argparse.Namespace, evaluation_set: EvaluationSet
) -> np.ndarray | None:
    """From --class_counts, or those of the dataset's training split; None where there are none."""
    path = options.class_counts
    if path is None and options.data:
        path = Path(options.data) / metadata.class_counts_file("train")
        path = path if path.exists() else None
    return path and labels.read_class_counts(path, evaluation_set.vocabulary)


def _evaluation_set(options: argparse.Namespace) -> EvaluationSet:
    """The images of --data or --labels, of the classes that --classes lists, if it is given."""
    if options.data:
        evaluation_set = EvaluationSet.read(options.data, options.split, options.class_weights)
        if options.classes:
            check_same_classes(Vocabulary.read(options.classes), options.classes, evaluation_set)
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
    if wanted == "latest":
        return checkpoints[-1]
    for candidate in checkpoints:
        if str(candidate.step) == wanted:
            return candidate
    steps = ", ".join(str(candidate.step) for candidate in checkpoints[-10:])
    raise EvaluationError(f"{workdir} has no checkpoint of step {wanted}. There are: {steps}.")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.evaluate",
        description="Compute the class-weighted MAP@100 of checkpoints, networks or predictions.",
        epilog="example: python -m eval.evaluate --workdir=runs/1 --data=shards --split=eval "
        "--class_weights=weights.tsv",
    )
    _add_scores(parser.add_argument_group("what is evaluated, one of"))
    _add_images(parser.add_argument_group("on which images"))
    add = parser.add_argument
    add("--class_weights", help="TSV of class and weight (default: all classes weigh the same)")
    add(
        "--class_counts",
        metavar="FILE",
        help="TSV of class and count in training, for the prior-only baseline of predictions "
        "(default: those of DATA's training split)",
    )
    add(
        "--curves",
        type=lambda text: text.split(","),
        metavar="CLASS,...",
        help="classes whose precision-recall curves are drawn (default: a few telling ones)",
    )
    add(
        "--hierarchy",
        metavar="FILE",
        help="the page shows its subtrees: Open Images' JSON, or a table of child and parent",
    )
    add(
        "--compare_with",
        metavar="DIR",
        help="the page shows the difference to this evaluation: RUN/eval/SPLIT of another run",
    )
    add("--output", metavar="DIR", help="where reports go (default: RUN/eval/SPLIT)")
    add("--batch_size", type=int, default=64, help="images scored together (default: 64)")
    options = parser.parse_args(argv)
    _check(parser, options)
    return options


def _add_scores(group: Any) -> None:
    add = group.add_argument
    add("--workdir", metavar="RUN", help="folder of a training run")
    add("--model", metavar="PATH", help="a .keras file, or the folder of a SavedModel")
    add("--predictions", metavar="FILE", help="scores: .npy (dense), .npz or .parquet (lists)")
    add_checkpoint(group)
    add("--watch", action="store_true", help="evaluate each new checkpoint until training ends")
    add(
        "--watch_timeout",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="with --watch: give up after so long without a new checkpoint (default: 3600)",
    )
    add(
        "--num_processes",
        type=int,
        default=1,
        help="processes that the images are cut over, by shard; the numbers stay the same bit for "
        "bit (default: 1)",
    )
    add(
        "--process_timeout",
        type=float,
        default=SILENCE,
        metavar="SECONDS",
        help="with --num_processes: one that takes longer for a batch counts as hanging "
        f"(default: {SILENCE:g})",
    )
    add("--ids", metavar="FILE", help="image ids of the rows of an .npy file, a line each")
    add("--classes", metavar="FILE", help="class list of the columns, or of the class ids")
    add(
        "--score_space",
        choices=tuple(PROBABILITY_OF),
        default="unknown",
        help="what predictions or a SavedModel's outputs are (default: unknown, not calibrated)",
    )


def add_checkpoint(group: Any) -> None:
    """Adds the options that choose among a run's checkpoints, and what of one is evaluated."""
    group.add_argument(
        "--checkpoint", default="latest", metavar="STEP", help="latest (default), or a step"
    )
    group.add_argument(
        "--parameters",
        choices=("ema", "raw"),
        default="ema",
        help="ema: Polyak averages (default); raw: as training left them",
    )


def _add_images(group: Any) -> None:
    add = group.add_argument
    add("--data", help="folder that beam_runner.py wrote")
    add("--split", default="eval", help="split to evaluate on (default: eval)")
    add("--labels", metavar="FILE", help="for predictions: label files instead, without images")


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if sum(map(bool, (options.workdir, options.model, options.predictions))) != 1:
        parser.error("name what is evaluated: --workdir, --model or --predictions, one of them")
    if not (options.workdir or options.output):
        parser.error("--model and --predictions need --output, the folder for the report")
    if options.predictions:
        if bool(options.data) == bool(options.labels):
            parser.error("name the images: --data or --labels, one of them")
        if not options.classes and (options.labels or options.predictions.endswith(".npy")):
            parser.error("--classes must name the class list that the predictions are in")
    elif not options.data:
        parser.error("--workdir and --model need --data, the folder with the images")
    if options.watch and (options.checkpoint != "latest" or not options.workdir):
        parser.error("--watch evaluates every checkpoint: leave --checkpoint out")
    if options.batch_size < 1:
        parser.error(f"--batch_size must be at least 1. Received: {options.batch_size}")
    if options.num_processes < 1:
        parser.error(f"--num_processes must be at least 1. Received: {options.num_processes}")
    if options.num_processes > 1 and options.predictions:
        parser.error("--num_processes is for networks: predictions are read in one process")
    for flag in ("watch_timeout", "process_timeout"):
        if not getattr(options, flag) > 0:
            parser.error(f"--{flag} must be above 0. Received: {getattr(options, flag)}")


def _fail(error: Exception, exit_code: int) -> int:
    print(f"eval.evaluate: {error}", file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    # Ctrl-C and SIGTERM end the process at once, even inside TensorFlow: no file is half written.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
