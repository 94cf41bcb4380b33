"""Makes report.html from what an evaluation wrote: one file that needs nothing else to be read.

The page shows the headline with its interval and definition, every metric, the training profile,
average precision by training frequency and by subtree of a label hierarchy, precision against
recall of chosen classes, calibration, example images, and a table of all classes. Where another
evaluation is given, both stand beside each other.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval import comparison, frequency, metrics, subtrees, table
from eval.examples import TOP_PREDICTIONS
from eval.results import Results, read_json_lines, replace_text
from eval.surroundings import Surroundings
from pipeline import page
from pipeline.hierarchy import Hierarchy

_TEMPLATES_DIR = Path(__file__).parent / "templates"
_LOSS_POINTS = 1000
_DECIMALS = 6  # of the numbers in the page's table; report.json has all of them
_EXAMPLE_GROUPS = (
    ("random", "Chosen by a hash of the image id", "the same at every checkpoint"),
    ("best", "Best ranked", "the highest average precision over an image's labels"),
    ("worst", "Worst ranked", "the lowest average precision over an image's labels"),
    ("wrong", "Most confidently wrong", "the highest score of a class that is no label"),
)
# Columns of the table: in the report, on the page, and what kind of number it is.
_COLUMNS = (
    ("training_count", "training images", "count"),
    ("positives", "positives", "count"),
    ("weight", "weight", "number"),
    ("average_precision", "AP", "share"),
    ("top_images_average_precision", "AP, top images", "share"),
    ("recall", "recall@100", "share"),
    ("contribution", "contribution", "small"),
)
_BY_RANK = ("hit", "precision", "recall")


def write_page(results: Results, surroundings: Surroundings) -> None:
    """Writes report.html beside the report that is shown."""
    replace_text(results.page_path, render(results, surroundings))


def render(results: Results, surroundings: Surroundings) -> str:
    """The page about the report that is shown, as HTML."""
    report = results.report()
    other = surroundings.compared.report() if surroundings.compared else None
    names = dict(zip(report["classes"]["class"], report["classes"]["name"], strict=True))
    is_trained = None not in report["classes"]["training_count"]  # else nobody knows
    groups = frequency.groups(report["classes"]) if is_trained else []
    return (
        page.environment(_TEMPLATES_DIR)
        .get_template("report.html")
        .render(
            report=report,
            other=other,
            difference=_difference(results, surroundings.compared),
            weighted=report["class_weights"] is not None,
            fasteval=table.FASTEVAL if report["split"].startswith("fasteval") else None,
            metric_tables=_metric_tables(report["metrics"]),
            scale=_scale(report, other),
            groups=groups,
            profiles=_training_profiles(results, report, surroundings, other),
            by_frequency=_by_frequency(report, groups) if groups else None,
            subtrees=_subtrees(report, surroundings.hierarchy),
            curves=_curves(report),
            calibration=_calibration(report),
            classes=_classes(report, groups, other),
            examples=_example_groups(results.examples(), names),
            top_predictions=TOP_PREDICTIONS,
        )
    )


def _difference(results: Results, compared: Results | None) -> dict[str, Any] | None:
    """The headline's difference to the other evaluation, with its paired interval."""
    if compared is None:
        return None
    runs = [comparison.read(str(found.folder)) for found in (compared, results)]
    return comparison.compare(runs)["differences"][0][metrics.HEADLINE]


def _metric_tables(values: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of all pairs, then those of verified pairs alone, where there are any.

    Each as `rows` with a weighted and an unweighted value, or one that knows no weights; and
    `ranks` and `by_rank`, those that there are for several numbers of predictions.
    """
    titles = metrics.TITLES | metrics.IMAGE_TITLES
    tables = []
    for prefix in ("", metrics.VERIFIED):
        found: dict[str, Any] = {"is_verified": bool(prefix), "rows": [], "by_rank": {}}
        for name, metric in values.items():
            is_ours = name.startswith(metrics.VERIFIED) == bool(prefix)
            if not is_ours or name.endswith("_unweighted"):
                continue
            name = name.removeprefix(prefix)
            kind, _, rank = name.partition("_at_")
            if kind in _BY_RANK:
                found["by_rank"].setdefault(kind, {})[int(rank)] = metric
            else:
                unweighted = values.get(f"{prefix}{name}_unweighted")
                found["rows"].append((titles[name].strip(), metric, unweighted))
        if found["rows"]:
            tables.append(found)
    return tables


def _scale(report: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any]:
    """The strip below the headline: where its values lie, in percent of a round upper end."""
    headline = report["metrics"]["map_at_100"]
    marks = {"estimate": headline["value"]}
    if "prior_map_at_100" in report["metrics"]:
        marks["prior"] = report["metrics"]["prior_map_at_100"]["value"]
    if headline.get("interval"):
        marks["low"], marks["high"] = headline["interval"]
    if other:
        marks["other"] = other["metrics"]["map_at_100"]["value"]
    known = {name: value for name, value in marks.items() if value is not None}
    most = max([*known.values(), 1e-6])
    end = next(
        step * 10.0**power
        for power in range(-6, 1)
        for step in (1, 2, 5)
        if step * 10.0**power >= most or (step, power) == (1, 0)
    )
    return {"end": f"{end:g}", **{name: 100 * value / end for name, value in known.items()}}


def _training_profiles(
    results: Results,
    report: dict[str, Any],
    surroundings: Surroundings,
    other: dict[str, Any] | None,
) -> dict[str, list[str]]:
    """The figures against steps and against images; none where there is no history of training."""
    from eval import plots

    label = "this run" if other else "MAP@100"
    histories = [(label, results.history(report), surroundings.run_dir)]
    if surroundings.compared and other:
        history = surroundings.compared.history(other)
        histories.append(("compared", history, _run_dir_of(other)))
    if report["source"] != "checkpoint" or not histories[0][1]:
        return {}
    losses = [_losses(run_dir) for _, _, run_dir in histories]
    figures = {}
    for column, (title, axis) in enumerate((("steps", "step"), ("images", "samples"))):
        runs = [
            plots.Profile(label, history, _thinned(found[:, [column, 2]]))
            for (label, history, _), found in zip(histories, losses, strict=True)
        ]
        figures[title] = [plots.map_profile(runs, axis)]
        if any(len(run.losses) for run in runs):
            figures[title].append(plots.loss_profile(runs, axis))
    return figures


def _run_dir_of(report: dict[str, Any]) -> Path | None:
    """The training run that a checkpoint lies in: RUN/checkpoints/step-N."""
    return Path(report["checkpoint"]).parents[1] if report["source"] == "checkpoint" else None


def _losses(run_dir: Path | None) -> np.ndarray:
    """[n, 3]: steps, images, and the training loss there."""
    path = run_dir / "metrics.jsonl" if run_dir else None
    lines = read_json_lines(path) if path and path.exists() else iter(())
    losses = (
        (line["step"], line["samples"], line["train/loss"])
        for line in lines
        if "train/loss" in line
    )
    return np.array(sorted(row for row in losses if math.isfinite(row[-1]))).reshape(-1, 3)


def _thinned(points: np.ndarray) -> np.ndarray:
    """Means of neighbours, at most `_LOSS_POINTS` of them: months of training are many lines."""
    parts = np.array_split(points, min(_LOSS_POINTS, len(points)) or 1)
    return np.array([part.mean(axis=0) for part in parts if len(part)]).reshape(-1, 2)


def _by_frequency(report: dict[str, Any], groups: list[frequency.Group]) -> str:
    from eval import plots

    classes = report["classes"]
    return plots.ap_by_frequency(classes["training_count"], classes["average_precision"], groups)


def _curves(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A figure a chosen class, with what stands above it."""
    from eval import plots

    classes = report["classes"]
    class_ids = {key: class_id for class_id, key in enumerate(classes["class"])}
    return [
        {
            "name": classes["name"][class_ids[key]],
            "average_precision": classes["average_precision"][class_ids[key]],
            "positives": classes["positives"][class_ids[key]],
            "figure": plots.precision_recall(
                curve["recall"],
                curve["precision"],
                classes["positives"][class_ids[key]] / report["num_images"],
            ),
        }
        for key, curve in report["curves"].items()
    ]


def _calibration(report: dict[str, Any]) -> str | None:
    from eval import plots

    found = report["calibration"]
    return plots.calibration(found["bins"]) if found else None


def _subtrees(report: dict[str, Any], hierarchy: Hierarchy | None) -> dict[str, Any] | None:
    """The tree as the page's script takes it."""
    if hierarchy is None:
        return None
    tree = subtrees.nodes(hierarchy, report["classes"])
    return {
        "roots": subtrees.roots(tree),
        "nodes": [
            {
                "label": node.label,
                "class": node.class_id,
                "children": node.children,
                "size": len(node.class_ids),
                "mean": _rounded(node.mean_average_precision),
            }
            for node in tree
        ],
    }


def _classes(
    report: dict[str, Any], groups: list[frequency.Group], other: dict[str, Any] | None
) -> dict[str, Any]:
    """The table as the page's script takes it: a list a column."""
    columns = [
        {"title": title, "kind": kind, "values": _all_rounded(report["classes"][key])}
        for key, title, kind in _COLUMNS
        if any(value is not None for value in report["classes"][key])
    ]
    if other:
        pairs = zip(
            report["classes"]["average_precision"],
            other["classes"]["average_precision"],
            strict=True,
        )
        differences = [None if x is None or y is None else x - y for x, y in pairs]
        columns.append({"title": "ΔAP", "kind": "difference", "values": _all_rounded(differences)})
    group_of: list[int | None] = [None] * len(report["classes"]["class"])
    for place, group in enumerate(groups):
        for class_id in group.class_ids.tolist():
            group_of[class_id] = place
    return {
        "keys": report["classes"]["class"],
        "names": report["classes"]["name"],
        "columns": columns,
        "group_of": group_of,
    }


def _all_rounded(values: Sequence[float | None]) -> list[float | None]:
    return [_rounded(value) for value in values]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DECIMALS}g}")


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
