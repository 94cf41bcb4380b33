"""Bulk inference and evaluation as a Beam job, on any engine that the pipeline runs on.

    python -m eval.beam_job --workdir=RUN --data=OUT --split=eval --output=DIR --workers=4
    python -m eval.beam_job ... --runner=FlinkRunner --flink_master=HOST:8081

Writes predictions.parquet, the top predictions of every image, and the same report as
eval.evaluate, to the bit. DIR may be the address of an object store. Flags that are not listed are
Beam's own. Workers need the packages of the evaluator, and reach RUN, OUT and DIR by the names that
are given.
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from eval import table
from eval.evaluate import EXIT_TRY_AGAIN, EXIT_USAGE, USER_ERRORS, evaluate_once
from eval.evaluation_set import EvaluationSet
from eval.evaluator import RunEvaluator
from eval.options import add_checkpoint
from eval.results import Results, opened
from eval.surroundings import Surroundings
from model import checkpoint
from pipeline import beam_options, metadata, storage
from pipeline.beam_options import OptionsError
from pipeline.cores import num_cores

EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options, rest = parse(argv)
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of optional packages when imported
    from eval.bulk_inference import EngineError

    logging.getLogger().setLevel(logging.WARNING)
    try:
        with opened(options.output) as results:
            report = run(options, rest, results)
    except (EngineError, checkpoint.UnreachableError, metadata.UnreachableError) as error:
        return _fail(error, EXIT_TRY_AGAIN)
    except (*USER_ERRORS, OptionsError) as error:
        return _fail(error, EXIT_USAGE)
    except KeyboardInterrupt:
        return _fail("stopped", EXIT_INTERRUPTED)
    print(table.render(report))
    print()
    for name in ("predictions.parquet", results.report_path.name, results.page_path.name):
        print(storage.join(options.output, name))
    return 0


def run(options: argparse.Namespace, flags: list[str], results: Results) -> dict[str, Any]:
    """Scores and evaluates; returns the report."""
    from eval.bulk_inference import BulkInference

    evaluation_set = EvaluationSet.read(options.data, options.split, options.class_weights)
    surroundings = Surroundings.read(options.workdir, None, None, evaluation_set)
    threads = max(1, num_cores() // options.workers) if options.workers > 1 else 0
    inference = BulkInference(
        options.output, options.top, beam_options.parse(flags, options.workers), threads
    )
    evaluator = RunEvaluator(
        options.workdir,
        evaluation_set,
        options.parameters,
        options.batch_size,
        count=inference.count,
    )
    return evaluate_once(evaluator, results, surroundings, options.checkpoint)


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command line's options, with absolute paths, and Beam's own."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.beam_job",
        description="Score every image of a split on a Beam engine, write the top predictions, and "
        "evaluate them.",
        epilog="example: python -m eval.beam_job --workdir=runs/1 --data=shards --split=eval "
        "--class_weights=weights.tsv --output=predictions --workers=4",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="RUN", help="folder of a training run")
    add("--data", required=True, help="folder that beam_runner.py wrote")
    add("--split", default="eval", help="split to score (default: eval)")
    add("--class_weights", help="TSV of class and weight (default: all classes weigh the same)")
    add_checkpoint(parser)
    add("--output", required=True, metavar="DIR", help="where predictions and reports go")
    add(
        "--top",
        type=int,
        default=100,
        help="predictions of an image that are written (default: 100, what MAP@100 looks at)",
    )
    add("--batch_size", type=int, default=64, help="images scored together (default: 64)")
    add("--workers", type=int, default=1, help="processes of this machine (default: 1)")
    options, rest = parser.parse_known_args(argv)
    for flag in ("top", "batch_size", "workers"):
        if getattr(options, flag) < 1:
            parser.error(f"--{flag} must be at least 1. Received: {getattr(options, flag)}")
    for flag in ("workdir", "data", "output"):  # workers may stand in another folder
        if storage.is_local(path := getattr(options, flag)):
            setattr(options, flag, str(Path(path).absolute()))
    return options, rest


def _fail(error: object, exit_code: int) -> int:
    print(f"eval.beam_job: {error}", file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
