"""Makes report.html from what an evaluation wrote: one file that needs nothing else to be read.

The page shows the headline with its definition, every metric, the training profile, average
precision by training frequency, a table of the classes, and example images.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from eval import frequency, metrics, table
from eval.examples import TOP_PREDICTIONS
from eval.results import Results, read_json_lines, replace_text

_TEMPLATES_DIR = Path(__file__).parent / "templates"
_LOSS_POINTS = 1000
_EXAMPLE_GROUPS = (
    ("random", "Chosen by a hash of the image id", "the same at every checkpoint"),
    ("best", "Best ranked", "the highest average precision over an image's labels"),
    ("worst", "Worst ranked", "the lowest average precision over an image's labels"),
)
_CLASS_COLUMNS = (
    "class",
    "name",
    "positives",
    "training_count",
    "weight",
    "average_precision",
    "recall",
)


def write_page(results: Results, workdir: str | Path) -> None:
    """Writes report.html beside the report that is shown."""
    replace_text(results.page_path, render(results, workdir))


def render(results: Results, workdir: str | Path) -> str:
    """The page about the report that is shown, as HTML."""
    import jinja2  # it and matplotlib take a second to import: only when a page is made

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES_DIR),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    report = results.report()
    names = dict(zip(report["classes"]["class"], report["classes"]["name"], strict=True))
    groups = frequency.groups(report["classes"])
    return environment.get_template("report.html").render(
        report=report,
        weighted=report["class_weights"] is not None,
        value=table.value,
        metrics=metrics.TITLES,
        groups=groups,
        profile=_training_profile(results.history(report), Path(workdir)),
        by_frequency=_by_frequency(report, groups),
        class_columns=_CLASS_COLUMNS,
        class_rows=list(zip(*(report["classes"][name] for name in _CLASS_COLUMNS), strict=True)),
        examples=_example_groups(results.examples(), names),
        top_predictions=TOP_PREDICTIONS,
    )


def _training_profile(history: list[dict[str, Any]], workdir: Path) -> str:
    from eval import plots

    metrics_path = workdir / "metrics.jsonl"
    training = read_json_lines(metrics_path) if metrics_path.exists() else []
    losses = [(line["step"], line["train/loss"]) for line in training if "train/loss" in line]
    losses = sorted((step, loss) for step, loss in losses if math.isfinite(loss))
    map_points = [(line["step"], line["map_at_100"]) for line in history]
    prior = history[-1]["prior_map_at_100"]
    return plots.training_profile(map_points, prior, _thinned(losses))


def _thinned(points: list[tuple[int, float]]) -> np.ndarray:
    """Means of neighbours, at most `_LOSS_POINTS` of them: months of training are many lines."""
    parts = np.array_split(np.array(points).reshape(-1, 2), min(_LOSS_POINTS, len(points)) or 1)
    return np.array([part.mean(axis=0) for part in parts if len(part)])


def _by_frequency(report: dict[str, Any], groups: list[frequency.Group]) -> str:
    from eval import plots

    classes = report["classes"]
    return plots.ap_by_frequency(classes["training_count"], classes["average_precision"], groups)


def _example_groups(examples: dict[str, Any], names: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "subtitle": subtitle,
            "examples": [_example(example, names) for example in examples[group]],
        }
        for group, title, subtitle in _EXAMPLE_GROUPS
        if examples[group]
    ]


def _example(example: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    predicted = {prediction["class"] for prediction in example["predictions"]}
    return {
        **example,
        "labels": [
            {"name": names[key], "predicted": key in predicted} for key in example["labels"]
        ],
        "predictions": [
            {
                "name": names[prediction["class"]],
                "correct": prediction["correct"],
                "percent": _percent(prediction["logit"]),
            }
            for prediction in example["predictions"]
        ],
    }


def _percent(logit: float | None) -> float | None:
    """The sigmoid of a logit in percent; written so that it overflows at neither end."""
    return None if logit is None else 50 * (1 + math.tanh(logit / 2))
