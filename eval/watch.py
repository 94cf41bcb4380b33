"""Evaluates each checkpoint of a run once, while training writes them.

The newest comes first where evaluation falls behind; then those that it passed over. Ends when
training has ended and every checkpoint that is there has been evaluated. What the results' history
holds already is not evaluated again. The best checkpoint so far is kept beside the results, and
every metric is written for TensorBoard.
"""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any

from eval import table
from eval.best_checkpoint import BestCheckpoint
from eval.evaluation_set import EvaluationError
from eval.evaluator import RunEvaluator
from eval.report import write_page
from eval.results import Results
from eval.surroundings import Surroundings
from model import checkpoint, run_folder
from model.checkpoint import Checkpoint, CheckpointError, UnreachableError
from model.event_files import EventFiles

_SECONDS_BETWEEN_LOOKS = 2.0


class NothingNewError(RuntimeError):
    """No new checkpoint came in time; the message says what was waited for."""


def watch(
    evaluator: RunEvaluator, results: Results, surroundings: Surroundings, timeout: float
) -> dict[str, Any]:
    """Evaluates checkpoints until training has ended; returns the report of the highest step.

    Raises NothingNewError after `timeout` seconds without a new checkpoint, and EvaluationError if
    training ended and no checkpoint could be evaluated, or the folder of the results is watched
    already, or was under other conditions.
    """
    with results.watched(evaluator.conditions()):
        return _watch(evaluator, results, surroundings, timeout)


def _watch(
    evaluator: RunEvaluator, results: Results, surroundings: Surroundings, timeout: float
) -> dict[str, Any]:
    workdir = evaluator.workdir
    finished = _finished(evaluator, results)
    if finished:
        _say(f"{results.folder}: {len(finished)} checkpoints are evaluated already")
        write_page(results, surroundings)  # it may have been killed before it came to that
    if not checkpoint.list_checkpoints(workdir):
        _say(f"waiting for the first checkpoint of {workdir}")
    events = EventFiles(results.folder / "tensorboard")
    deadline = time.monotonic() + timeout
    while True:
        # In this order: a checkpoint that is written between the two looks is not missed.
        training_ended = run_folder.is_completed(workdir)
        waiting = _waiting(workdir, finished)
        if waiting:
            finished.add(waiting[-1].step)
            _evaluate(evaluator, waiting[-1], results, surroundings, events)
            deadline = time.monotonic() + timeout
        elif training_ended:
            break
        elif time.monotonic() > deadline:
            raise NothingNewError(
                f"No new checkpoint in {workdir} for {timeout:g} s, and training has not "
                "said that it ended. If it still runs, start this command again; it goes on here."
            )
        else:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    history = results.history(evaluator.conditions())
    if not history:
        raise EvaluationError(f"Training ended, and {workdir} has no usable checkpoint.")
    return results.step_report(history[-1]["step"])


def _finished(evaluator: RunEvaluator, results: Results) -> set[int]:
    """The steps that need no evaluation; one that was trained anew since does need it."""
    evaluated = {
        line["step"]: line["checkpoint_sha256"] for line in results.history(evaluator.conditions())
    }
    if evaluated and not results.shows(max(evaluated)):
        del evaluated[max(evaluated)]  # evaluated once more, to be shown
    for candidate in checkpoint.list_checkpoints(evaluator.workdir):
        if candidate.step in evaluated:
            with contextlib.suppress(CheckpointError):  # deleted meanwhile
                if evaluated[candidate.step] != evaluator.hash_of(candidate):
                    del evaluated[candidate.step]
    return set(evaluated)


def wait_for_run(workdir: str, timeout: float) -> None:
    """Waits for the run's configuration, which training writes last of its small files.

    Raises NothingNewError after `timeout` seconds, ConfigError where no run can ever be.
    """
    run_folder.check_is_local(workdir)
    path = Path(workdir) / "config.toml"
    deadline = time.monotonic() + timeout
    if not path.exists():
        _say(f"waiting for training to start in {workdir}")
    while not path.exists():
        if time.monotonic() > deadline:
            raise NothingNewError(
                f"Waited {timeout:g} s for a training run to appear in {workdir}: there is no "
                f"{path.name}. Start training, or correct --workdir."
            )
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _waiting(workdir: str, finished: set[int]) -> list[Checkpoint]:
    checkpoints = checkpoint.list_checkpoints(workdir)
    return [candidate for candidate in checkpoints if candidate.step not in finished]


def _evaluate(
    evaluator: RunEvaluator,
    candidate: Checkpoint,
    results: Results,
    surroundings: Surroundings,
    events: EventFiles,
) -> None:
    best = BestCheckpoint(results.folder)
    with best.held(candidate):
        try:
            evaluation = evaluator.evaluate(candidate)
        except CheckpointError as error:
            gone = candidate not in checkpoint.list_checkpoints(evaluator.workdir)
            if isinstance(error, UnreachableError) and not gone:
                raise  # passed over, it would be missing for good once training has ended
            what = "deleted meanwhile" if gone else f"{error}"
            _say(f"step {candidate.step:,} passed over: {what}")
            return
        history = results.history(evaluator.conditions())
        others = [line for line in history if line["step"] != candidate.step]
        if _is_best(evaluation.report, others):
            try:
                best.keep(candidate)
            except OSError as error:
                _say(f"step {candidate.step:,} is the best so far and cannot be kept: {error}")
    events.add(candidate.step, _scalars(evaluation.report))
    is_highest = all(line["step"] < candidate.step for line in others)
    results.add(evaluation, show=is_highest)  # last: from here on it is not evaluated again
    write_page(results, surroundings)
    print(table.line(evaluation.report), flush=True)


def _is_best(report: dict[str, Any], others: list[dict[str, Any]]) -> bool:
    """Whether its headline is the highest; of equal ones the earlier step's counts."""
    headline = report["headline"]
    return all(
        (line[headline], -line["step"]) < (report["metrics"][headline]["value"], -report["step"])
        for line in others
    )


def _scalars(report: dict[str, Any]) -> dict[str, float]:
    """What TensorBoard gets: every metric that has a value, and the headline's interval."""
    values = {name: metric["value"] for name, metric in report["metrics"].items()}
    headline = report["headline"]
    low, high = report["metrics"][headline].get("interval", (None, None))
    values |= {f"{headline}_low": low, f"{headline}_high": high}
    return {
        f"eval/{report['split']}/{name}": value
        for name, value in values.items()
        if value is not None
    }


def _say(message: str) -> None:
    print(f"eval.evaluate: {message}", file=sys.stderr, flush=True)
