"""Evaluations of the same images: what changed, and whether that is more than chance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval import intervals, metrics
from eval.influence import Influence, InfluenceError
from eval.results import Results

FORMAT_VERSION = 1
NUM_CLASSES_NAMED = 10
# Only where these agree are two headlines the same quantity of the same images.
_SAME = ("data_fingerprint", "split", "k", "num_classes", "num_images")


class ComparisonError(ValueError):
    """Evaluations that cannot be compared; the message says of which and why."""


@dataclass(frozen=True)
class Run:
    """One evaluation: its report, and each image's influence on its headline."""

    name: str
    report: dict[str, Any]
    influence: Influence

    @property
    def headline(self) -> float:
        return self.report["metrics"][metrics.HEADLINE]["value"]


def read(folder: str) -> Run:
    """The evaluation that a folder shows: RUN/eval/SPLIT, or the --output of one.

    Raises ComparisonError where there is none, or the influences of its images are gone.
    """
    results = Results(folder)
    try:
        report = results.report()
        influence = Influence.read(results.influence_path(report["step"]))
        value = report["metrics"][metrics.HEADLINE]["value"]
    except (OSError, KeyError, json.JSONDecodeError, InfluenceError) as error:
        raise ComparisonError(
            f"{folder} holds no whole evaluation: {error}. Name the folder that eval.evaluate "
            "wrote (RUN/eval/SPLIT, or its --output), of report format 2 or later."
        ) from error
    if value is None:
        raise ComparisonError(f"{folder}: nothing could be averaged, so there is no headline.")
    if len(influence.image_ids) != report["num_images"]:
        raise ComparisonError(f"{folder}: report.json and the influences are of other images.")
    return Run(folder, report, influence)


def compare(runs: list[Run]) -> dict[str, Any]:
    """Every run against the first, as JSON values; see `docs/metrics.md`.

    Raises ComparisonError where they are not of the same images, classes and weights.
    """
    first = runs[0]
    for run in runs[1:]:
        _check_comparable(first, run)
    return {
        "format_version": FORMAT_VERSION,
        "headline": metrics.HEADLINE,
        "definition": first.report["metrics"][metrics.HEADLINE]["definition"],
        "interval_definition": intervals.DEFINITION,
        "class_weights": first.report["class_weights"],
        "class_weights_sha256": first.report["class_weights_sha256"],
        "data": first.report["data"],
        "split": first.report["split"],
        "num_images": first.report["num_images"],
        "runs": [_summary(run) for run in runs],
        "differences": [_difference(first, run) for run in runs[1:]],
    }


def _check_comparable(first: Run, run: Run) -> None:
    for key in (*_SAME, "class_weights_sha256"):
        ours, theirs = first.report[key], run.report[key]
        if ours != theirs:
            raise ComparisonError(
                f"{first.name} and {run.name} cannot be compared: their {key} differ, {ours!r} and "
                f"{theirs!r}. Evaluate both on the same split with the same class weights."
            )
    if first.report["classes"]["class"] != run.report["classes"]["class"]:
        raise ComparisonError(f"{first.name} and {run.name} are of other classes.")
    ours, theirs = set(first.influence.image_ids), set(run.influence.image_ids)
    if ours != theirs:
        alone = sorted(ours ^ theirs)
        raise ComparisonError(
            f"{first.name} and {run.name} are of other images: {len(alone):,} are in one of them "
            f"alone ({', '.join(map(repr, alone[:5]))})."
        )


def _summary(run: Run) -> dict[str, Any]:
    report = run.report
    return {
        "name": run.name,
        **{key: report[key] for key in ("source", "checkpoint", "step", "samples", "parameters")},
        "metrics": {
            name: {key: metric[key] for key in metric if key != "definition"}
            for name, metric in report["metrics"].items()
        },
    }


def _difference(first: Run, run: Run) -> dict[str, Any]:
    place = {image_id: row for row, image_id in enumerate(first.influence.image_ids)}
    order = np.argsort([place[image_id] for image_id in run.influence.image_ids])
    ours, theirs = first.influence, run.influence
    found: dict[str, Any] = {"name": run.name, "of": first.name}
    for suffix, change in (
        ("", theirs.weighted[order] - ours.weighted),
        ("_unweighted", theirs.unweighted[order] - ours.unweighted),
    ):
        name = metrics.HEADLINE + suffix
        before = first.report["metrics"][name]["value"]
        value = run.report["metrics"][name]["value"] - before
        error = intervals.standard_error(change)
        found[name] = {
            "difference": value,
            "relative_improvement": value / before if before else None,
            "standard_error": error,
            "interval": list(intervals.interval(value, error)),
        }
    gains = _class_gains(first.report["classes"], run.report["classes"])
    found["gained_most"] = [gain for gain in gains if gain["contribution"] > 0][:NUM_CLASSES_NAMED]
    losses = [gain for gain in reversed(gains) if gain["contribution"] < 0]
    found["lost_most"] = losses[:NUM_CLASSES_NAMED]
    return {**found, "verdict": _verdict(found[metrics.HEADLINE], run.name, first.name)}


def _class_gains(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Classes with positives by what they add to the headline's difference, the most first."""
    gains = [
        {
            "class": key,
            "name": name,
            "positives": positives,
            "weight": weight,
            "average_precision": [ap_before, ap_after],
            "contribution": share_after - share_before,
        }
        for key, name, positives, weight, ap_before, ap_after, share_before, share_after in zip(
            *(before[column] for column in ("class", "name", "positives", "weight")),
            before["average_precision"],
            after["average_precision"],
            before["contribution"],
            after["contribution"],
            strict=True,
        )
        if share_before is not None and share_after is not None
    ]
    return sorted(gains, key=lambda gain: (-gain["contribution"], gain["class"]))


def _verdict(found: dict[str, Any], run: str, first: str) -> str:
    low, high = found["interval"]
    size = (
        ""
        if found["relative_improvement"] is None
        else f", {abs(found['relative_improvement']):.1%} of it"
    )
    if low <= 0 <= high:
        return (
            f"{run} and {first} cannot be told apart on these images: the difference of "
            f"{found['difference']:+.4f} lies within chance, from {low:+.4f} to {high:+.4f}."
        )
    return (
        f"{run} is {'better' if low > 0 else 'worse'} than {first} by "
        f"{abs(found['difference']):.4f}{size}; with 95% confidence the difference lies between "
        f"{low:+.4f} and {high:+.4f}."
    )
