"""Compares evaluations of the same images, in the form of the paper's table 2.

    python -m eval.compare RUN_A RUN_B ... --output=DIR

Each RUN is a folder that eval.evaluate wrote into (RUN/eval/SPLIT, or its --output), or a training
run with one such folder. Every one is compared with the first: headline, relative improvement,
paired interval of the difference, the classes that gained and lost most, and a verdict in words.
No network runs again. --output gets compare.json and compare.html.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from eval import comparison, metrics
from eval.comparison import ComparisonError
from eval.results import replace_text
from pipeline import page

_TEMPLATES_DIR = Path(__file__).parent / "templates"
_EXIT_USAGE = 2


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.compare",
        description="Compare evaluations of the same images with the first of them.",
        epilog="example: python -m eval.compare runs/1/eval/eval runs/2/eval/eval --output=DIR",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder that eval.evaluate wrote")
    parser.add_argument("--output", metavar="DIR", help="gets compare.json and compare.html")
    options = parser.parse_args(argv)
    if len(options.runs) < 2:
        parser.error("name two runs or more: the others are compared with the first")
    try:
        compared = comparison.compare([comparison.read(_folder_of(run)) for run in options.runs])
        print(render(compared))
        if options.output:
            write(compared, Path(options.output))
    except (ComparisonError, OSError) as error:
        print(f"eval.compare: {error}", file=sys.stderr)
        return _EXIT_USAGE
    return 0


def write(compared: dict[str, Any], folder: Path) -> None:
    """Writes compare.json and compare.html."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "compare.json", json.dumps(compared, indent=1, allow_nan=False) + "\n")
    replace_text(folder / "compare.html", _page(compared))
    print(f"\n{folder / 'compare.json'}\n{folder / 'compare.html'}")


def render(compared: dict[str, Any]) -> str:
    """The comparison as text."""
    weights = compared["class_weights"] or "all classes alike"
    lines = [
        f"{compared['split']}: {compared['num_images']:,} images; class weights: {weights}",
        "",
        f"{'':32}{'MAP@100':>9}{'unweighted':>12}",
    ]
    for run in compared["runs"]:
        values = [run["metrics"][metrics.HEADLINE + suffix]["value"] for suffix in _SUFFIXES]
        lines.append(f"{_short(run['name']):32}{values[0]:9.4f}{values[1]:12.4f}")
    for difference in compared["differences"]:
        lines += ["", f"{difference['name']} against {difference['of']}"]
        for title, suffix in (("MAP@100", ""), ("unweighted", "_unweighted")):
            found = difference[metrics.HEADLINE + suffix]
            relative = found["relative_improvement"]
            lines.append(
                f"  {title:12}{found['difference']:+9.4f}"
                f"{'' if relative is None else f'  {relative:+.1%} relative':>18}"
                f"  95% interval {found['interval'][0]:+.4f} to {found['interval'][1]:+.4f}"
            )
        for title, key in (("gained most", "gained_most"), ("lost most", "lost_most")):
            lines += [f"  {title}:"] if difference[key] else []
            lines += [_class_line(gain) for gain in difference[key][:5]]
        lines.append(f"  {difference['verdict']}")
    return "\n".join(lines)


_SUFFIXES = ("", "_unweighted")


def _class_line(gain: dict[str, Any]) -> str:
    before, after = gain["average_precision"]
    return (
        f"    {_short(gain['name']):30}{gain['contribution']:+9.5f}  "
        f"AP {before:.4f} to {after:.4f}, {gain['positives']:,} positives"
    )


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"...{name[-27:]}"


def _page(compared: dict[str, Any]) -> str:
    template = page.environment(_TEMPLATES_DIR).get_template("compare.html")
    return template.render(compared=compared, headline=metrics.HEADLINE)


def _folder_of(run: str) -> str:
    """The folder of results that is meant: itself, or the only one below RUN/eval."""
    if (Path(run) / "report.json").exists():
        return run
    below = sorted(path.parent for path in Path(run).glob("eval/*/report.json"))
    if len(below) == 1:
        return str(below[0])
    if not below:
        raise ComparisonError(
            f"{run} holds no evaluation: it has no report.json. Run eval.evaluate."
        )
    raise ComparisonError(
        f"{run} holds evaluations on several splits: name one of {', '.join(map(str, below))}."
    )


if __name__ == "__main__":
    sys.exit(main())
