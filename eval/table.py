"""A report as text, for a terminal: a table, or one line."""

from typing import Any

from eval import metrics

_PARAMETERS = {"ema": "Polyak averages", "raw": "raw parameters"}


def render(report: dict[str, Any]) -> str:
    """The metrics of a report, below what they were computed on."""
    checkpoint = (
        f"step {report['step']:,} ({report['samples']:,} samples, "
        f"{_PARAMETERS[report['parameters']]})"
    )
    data = (
        f"{report['split']}: {report['num_images']:,} images, "
        f"{report['labels_per_image']:.1f} labels an image, "
        f"{report['num_classes_with_positives']:,} of {report['num_classes']:,} classes "
        "with positives"
    )
    lines = [checkpoint, data]
    if report["class_weights"]:
        lines += [f"class weights: {report['class_weights']}", ""]
        columns = {"weighted": "", "unweighted": "_unweighted"}
    else:
        lines += ["no class weights were given: all classes weigh the same", ""]
        columns = {"unweighted": ""}
    lines.append(" " * 32 + "".join(f"{column:>12}" for column in columns))
    for name, title in metrics.TITLES.items():
        values = [value(report, name + suffix) for suffix in columns.values()]
        lines.append(f"{title:32}" + "".join(f"{text:>12}" for text in values))
    return "\n".join(lines)


def line(report: dict[str, Any]) -> str:
    """One line for one evaluation."""
    return (
        f"step {report['step']:>9,}  samples {report['samples']:>12,}  "
        f"MAP@100 {value(report, 'map_at_100')}  prior {value(report, 'prior_map_at_100')}"
    )


def value(report: dict[str, Any], name: str) -> str:
    """A metric with four decimals; a dash where nothing could be averaged."""
    number = report["metrics"][name]["value"]
    return "-" if number is None else f"{number:.4f}"
