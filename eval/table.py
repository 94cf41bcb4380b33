"""A report as text, for a terminal: a table, or one line."""

from typing import Any

from eval import metrics

_PARAMETERS = {"ema": "Polyak averages", "raw": "raw parameters"}
FASTEVAL = "FastEval14k of the paper: 14,000 images, about 6,000 classes, 36.5 labels an image"
_WIDTH = 32


def render(report: dict[str, Any]) -> str:
    """The metrics of a report, below what they were computed on."""
    scores = f"{report['checkpoint']} ({report['score_space']})"
    if report["source"] == "checkpoint":
        scores = (
            f"step {report['step']:,} ({report['samples']:,} samples, "
            f"{_PARAMETERS[report['parameters']]})"
        )
    data = (
        f"{report['split']}: {report['num_images']:,} images, "
        f"{report['labels_per_image']:.1f} labels an image, "
        f"{report['num_classes_with_positives']:,} of {report['num_classes']:,} classes "
        "with positives"
    )
    lines = [scores, data]
    if report["split"].startswith("fasteval"):
        lines.append(FASTEVAL)
    if report["class_weights"]:
        lines += [f"class weights: {report['class_weights']}", ""]
        columns = {"weighted": "", "unweighted": "_unweighted"}
    else:
        lines += ["no class weights were given: all classes weigh the same", ""]
        columns = {"unweighted": ""}
    lines.append(" " * _WIDTH + "".join(f"{column:>16}" for column in columns))
    for prefix, title in (("", ""), (metrics.VERIFIED, "verified pairs alone")):
        if prefix + metrics.HEADLINE in report["metrics"]:
            lines += ["", title] if title else []
            lines += _rows(report, prefix, columns)
    if report["calibration"]:
        lines.append(f"{'calibration error':{_WIDTH}}{report['calibration']['error']:>16.4f}")
    return "\n".join(lines)


def _rows(report: dict[str, Any], prefix: str, columns: dict[str, str]) -> list[str]:
    found = report["metrics"]
    rows = []
    for name, title in metrics.TITLES.items():
        if prefix + name in found:
            values = [value(report, prefix + name + suffix) for suffix in columns.values()]
            rows.append(f"{title:{_WIDTH}}" + "".join(f"{text:>16}" for text in values))
        if name == metrics.HEADLINE:
            ranges = [interval(report, prefix + name + suffix) for suffix in columns.values()]
            rows.append(f"{'  95% interval':{_WIDTH}}" + "".join(f"{text:>16}" for text in ranges))
    for name, title in metrics.IMAGE_TITLES.items():
        if prefix + name in found:
            rows.append(f"{title:{_WIDTH}}{value(report, prefix + name):>16}")
    return rows


def line(report: dict[str, Any]) -> str:
    """One line for one evaluation."""
    return (
        f"step {report['step']:>9,}  samples {report['samples']:>12,}  "
        f"MAP@100 {value(report, 'map_at_100')}  prior {value(report, 'prior_map_at_100')}"
    )


def value(report: dict[str, Any], name: str) -> str:
    """A metric with four decimals; a dash where nothing could be averaged, or it was not."""
    number = report["metrics"].get(name, {}).get("value")
    return "-" if number is None else f"{number:.4f}"


def interval(report: dict[str, Any], name: str) -> str:
    """The two ends of a metric's interval; a dash where it has none."""
    ends = report["metrics"][name].get("interval")
    return "-" if ends is None else f"{ends[0]:.4f}-{ends[1]:.4f}"
