"""The command line of `eval.evaluate`, and what of it other commands have, too."""

from __future__ import annotations

import argparse
from typing import Any

from eval.processes import SILENCE
from eval.scores import PROBABILITY_OF
from pipeline import metadata

LATEST = "latest"
_FLAGS_OF_INPUTS = {  # the flags that not every input has a use for
    "watch": ("workdir",),
    "parameters": ("workdir", "checkpoint"),
    "score_space": ("model", "predictions"),
    "labels": ("predictions",),
    "ids": ("predictions",),
    "classes": ("checkpoint", "model", "predictions"),
    "class_counts": ("checkpoint", "model", "predictions"),
}


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
        help="the page shows its subtrees: Open Images' JSON, or a table of child and parent "
        "(default: what the pipeline closed the split's labels with)",
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
    add_checkpoint(group, "; without --workdir the folder of a checkpoint, wherever it is")
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
        help="processes that the images are cut over, those of --data by shard; the numbers stay "
        "the same bit for bit (default: 1)",
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


def add_checkpoint(group: Any, more: str = "") -> None:
    """Adds the options that choose among a run's checkpoints, and what of one is evaluated."""
    group.add_argument(
        "--checkpoint",
        default=LATEST,
        metavar="STEP",
        help=f"{LATEST} (default), or a step, of --workdir{more}",
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
    is_alone = not options.workdir and options.checkpoint != LATEST
    given = [name for name in ("workdir", "model", "predictions") if getattr(options, name)]
    given += ["checkpoint"] * is_alone
    if len(given) != 1:
        parser.error(
            "name what is evaluated: --workdir, --model, --predictions or the folder of a "
            "--checkpoint, one of them"
        )
    for flag, inputs in _FLAGS_OF_INPUTS.items():
        is_set = getattr(options, flag) != parser.get_default(flag)
        if is_set and given[0] not in inputs:
            parser.error(f"--{flag} is for --{' or --'.join(inputs)} alone")
    if options.ids and not options.predictions.endswith(".npy"):
        parser.error("--ids is for .npy files alone: other predictions hold their image ids")
    if options.score_space != "unknown" and (options.model or "").endswith(".keras"):
        parser.error("--score_space is for a SavedModel alone: a .keras network says what it gives")
    if options.labels and options.split != parser.get_default("split"):
        parser.error("--split is for --data alone: all images of --labels are evaluated")
    if not (options.workdir or options.output):
        parser.error("without --workdir it takes --output, the folder for the report")
    if metadata.is_remote(options.output or ""):
        parser.error(
            f"--output is the path of a folder. Received: {options.output}; eval.beam_job writes "
            "into object stores"
        )
    if options.predictions:
        if bool(options.data) == bool(options.labels):
            parser.error("name the images: --data or --labels, one of them")
        if not options.classes and (options.labels or options.predictions.endswith(".npy")):
            parser.error("--classes must name the class list that the predictions are in")
    elif not options.data:
        parser.error("a network needs --data, the folder with the images")
    if options.watch and options.checkpoint != LATEST:
        parser.error("--watch evaluates every checkpoint: leave --checkpoint out")
    if options.batch_size < 1:
        parser.error(f"--batch_size must be at least 1. Received: {options.batch_size}")
    if options.num_processes < 1:
        parser.error(f"--num_processes must be at least 1. Received: {options.num_processes}")
    for flag in ("watch_timeout", "process_timeout"):
        if not getattr(options, flag) > 0:
            parser.error(f"--{flag} must be above 0. Received: {getattr(options, flag)}")
