"""The folder that evaluations are written into, and the page that is made from it.

    step-00001200.json    one evaluation; the source of truth
    step-00001200.influence.npz    each image's influence on its headline, to compare runs with
    report.json           the one that is shown: asked for last, or while watching the highest step
    classes.csv           its table of classes
    examples.json         images with their labels and top predictions, of the same checkpoint
    history.jsonl         one line an evaluation, in order of steps
    report.html           made from the files above and the run's metrics.jsonl
    watched.json          the conditions of a watched folder, which others must not change

Each file is replaced whole, so that readers, and a process that is killed, never see half of one.
"""

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.evaluation_set import EvaluationError
from eval.evaluator import FORMAT_VERSION, Evaluation
from pipeline import storage

_HISTORY = "history.jsonl"
# Two evaluations belong to one history only where these agree.
_CONDITIONS = ("split", "parameters", "data_fingerprint", "class_weights_sha256", "k")


class Results:
    """The evaluations of one run on one split."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def report_path(self) -> Path:
        return self.folder / "report.json"

    @property
    def page_path(self) -> Path:
        return self.folder / "report.html"

    def history(self, conditions: dict[str, Any]) -> list[dict[str, Any]]:
        """The evaluations made under the same conditions, in order of steps."""
        return [
            line
            for line in self._all_lines()
            if all(line.get(key) == conditions[key] for key in _CONDITIONS)
        ]

    def add(self, evaluation: Evaluation, show: bool) -> None:
        """Writes one evaluation; an earlier one of the same step is replaced.

        Args:
            show: makes it the one that report.json holds and the page is about.
        """
        report, examples = evaluation.report, evaluation.examples
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self._step_path(report["step"]), _to_text(report))
        replace_bytes(self.influence_path(report["step"]), evaluation.influence.to_bytes())
        if show:
            replace_text(self.folder / "examples.json", _to_text(examples))
            replace_text(self.folder / "classes.csv", _to_csv(report["classes"]))
            replace_text(self.report_path, _to_text(report))
        # Last: what stands in the history is not evaluated again.
        others = [line for line in self._all_lines() if line["step"] != report["step"]]
        lines = sorted([*others, _summary(report)], key=lambda line: line["step"])
        text = "".join(json.dumps(line) + "\n" for line in lines)
        replace_text(self.folder / _HISTORY, text)

    def check_conditions(self, conditions: dict[str, Any]) -> None:
        """Raises EvaluationError where the folder is watched under other conditions.

        Each step has one report, and the best checkpoint is the best of one history.
        """
        try:
            watched = json.loads(self._watched_path.read_text())
        except FileNotFoundError:
            return
        changes = [
            f"{key}: {watched[key]!r} there, {conditions[key]!r} now"
            for key in _CONDITIONS
            if watched[key] != conditions[key]
        ]
        if changes:
            raise EvaluationError(
                f"{self.folder} holds what --watch has found under other conditions "
                f"({'; '.join(changes)}), and its best checkpoint. Give another --output, or "
                "delete that folder."
            )

    @contextlib.contextmanager
    def watched(self, conditions: dict[str, Any]) -> Iterator[None]:
        """Keeps the folder for one watch, and to its conditions; raises EvaluationError."""
        try:
            with storage.lock(str(self.folder / "watched.lock")):
                self.check_conditions(conditions)
                kept = {key: conditions[key] for key in _CONDITIONS}
                replace_text(self._watched_path, _to_text(kept))
                yield
        except storage.LockedError as error:
            raise EvaluationError(
                f"Another --watch writes into {self.folder}. Wait until it ends, or give another "
                "--output."
            ) from error

    def report(self) -> dict[str, Any]:
        """The report that is shown."""
        return json.loads(self.report_path.read_text())

    def shows(self, step: int) -> bool:
        """Whether the folder is whole, of this format, and shows the report of this step."""
        try:
            shown = self.report()
            return (
                shown["format_version"] == FORMAT_VERSION
                and shown["step"] == self.examples()["step"] == self.step_report(step)["step"]
            )
        except (OSError, ValueError, KeyError):
            return False

    def examples(self) -> dict[str, Any]:
        """The example images of the report that is shown."""
        return json.loads((self.folder / "examples.json").read_text())

    def step_report(self, step: int) -> dict[str, Any]:
        """The evaluation of a step."""
        return json.loads(self._step_path(step).read_text())

    def influence_path(self, step: int) -> Path:
        """Where the influences of a step's images lie; see eval.influence."""
        return self.folder / f"step-{step:08d}.influence.npz"

    @property
    def _watched_path(self) -> Path:
        return self.folder / "watched.json"

    def _step_path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.json"

    def _all_lines(self) -> list[dict[str, Any]]:
        path = self.folder / _HISTORY
        return list(read_json_lines(path)) if path.exists() else []


@contextlib.contextmanager
def opened(folder: str) -> Iterator[Results]:
    """The results of a local folder, or of an object store.

    The latter are made in a temporary folder, and copied to the store when the block ends well.
    """
    if storage.is_local(folder):
        yield Results(folder)
        return
    with tempfile.TemporaryDirectory(prefix="results-") as local:
        history = storage.join(folder, _HISTORY)
        if storage.exists(history):
            storage.copy(history, f"{local}/{_HISTORY}")
        yield Results(local)
        for path in sorted(Path(local).iterdir()):
            storage.copy(str(path), storage.join(folder, path.name))


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, one a line, of which one is in memory at a time.

    Leaves out what is no JSON: a line that is still being written, or that a killed process cut.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(line)


def replace_text(path: Path, text: str) -> None:
    """Writes a file whole, in UTF-8."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole: to a temporary name beside it, flushed, then renamed."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _to_text(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _to_csv(columns: dict[str, list[Any]]) -> str:
    """A header and a line a class; what a class does not have is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    summary = {key: report[key] for key in ("step", "samples", "checkpoint_sha256", *_CONDITIONS)}
    summary |= {name: metric["value"] for name, metric in report["metrics"].items()}
    summary["map_at_100_interval"] = report["metrics"]["map_at_100"].get("interval")
    return summary
