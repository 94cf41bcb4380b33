"""Class-weighted MAP@100 of a checkpoint, or of each new one while training goes on.

    python -m eval.evaluate --workdir=RUN --data=OUT --split=eval --class_weights=weights.tsv
    python -m eval.evaluate ... --watch

Prints a table and writes report.json and report.html into RUN/eval/SPLIT, or into --output.
Every file is written whole, so that this command can be ended at any moment and started again.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from eval import class_weights, table, watch
from eval.evaluation_set import EvaluationError, EvaluationSet
from eval.evaluator import RunEvaluator
from eval.report import write_page
from eval.results import Results
from model import checkpoint
from model.config import ConfigError
from pipeline import labels, metadata

EXIT_USAGE = 2
EXIT_TRY_AGAIN = 75
USER_ERRORS = (
    EvaluationError,
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
    results = Results(options.output or Path(options.workdir) / "eval" / options.split)
    try:
        evaluation_set = EvaluationSet.read(options.data, options.split, options.class_weights)
        if options.watch:
            watch.wait_for_run(options.workdir, options.watch_timeout)
        evaluator = RunEvaluator(
            options.workdir,
            evaluation_set,
            options.parameters,
            options.batch_size,
            curve_classes=evaluation_set.class_ids(options.curves),
        )
        if options.watch:
            report = watch.watch(evaluator, results, options.watch_timeout)
        else:
            report = evaluate_once(evaluator, results, options.checkpoint)
    except watch.NothingNewError as error:
        return _fail(error, EXIT_TRY_AGAIN)
    except USER_ERRORS as error:
        return _fail(error, EXIT_USAGE)
    print(table.render(report))
    print(f"\n{results.report_path}\n{results.page_path}")
    return 0


def evaluate_once(evaluator: RunEvaluator, results: Results, wanted: str) -> dict[str, Any]:
    """Evaluates one checkpoint, writes its results, and returns the report."""
    workdir = evaluator.workdir
    chosen = choose(checkpoint.list_checkpoints(workdir), wanted, workdir)
    evaluation = evaluator.evaluate(chosen)
    results.add(evaluation, show=True)
    write_page(results, workdir)
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
        description="Compute the class-weighted MAP@100 of checkpoints.",
        epilog="example: python -m eval.evaluate --workdir=runs/1 --data=shards --split=eval "
        "--class_weights=weights.tsv",
    )
    add = parser.add_argument
    add("--workdir", required=True, help="folder of the training run")
    add("--data", required=True, help="folder that beam_runner.py wrote")
    add("--split", default="eval", help="split to evaluate on (default: eval)")
    add("--class_weights", help="TSV of class and weight (default: all classes weigh the same)")
    add("--checkpoint", default="latest", metavar="STEP", help="latest (default), or a step")
    add(
        "--parameters",
        choices=("ema", "raw"),
        default="ema",
        help="ema: Polyak averages (default); raw: as training left them",
    )
    add("--watch", action="store_true", help="evaluate each new checkpoint until training ends")
    add(
        "--watch_timeout",
        type=float,
        default=3600.0,
        metavar="SECONDS",
        help="with --watch: give up after so long without a new checkpoint (default: 3600)",
    )
    add(
        "--curves",
        type=lambda text: text.split(","),
        metavar="CLASS,...",
        help="classes whose precision-recall curves are drawn (default: a few telling ones)",
    )
    add("--output", metavar="DIR", help="where reports go (default: RUN/eval/SPLIT)")
    add("--batch_size", type=int, default=64, help="images scored together (default: 64)")
    options = parser.parse_args(argv)
    if options.watch and options.checkpoint != "latest":
        parser.error("--watch evaluates every checkpoint: leave --checkpoint out")
    if options.batch_size < 1:
        parser.error(f"--batch_size must be at least 1. Received: {options.batch_size}")
    if not options.watch_timeout > 0:
        parser.error(f"--watch_timeout must be above 0. Received: {options.watch_timeout}")
    return options


def _fail(error: Exception, exit_code: int) -> int:
    print(f"eval.evaluate: {error}", file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    # Ctrl-C and SIGTERM end the process at once, even inside TensorFlow: no file is half written.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
