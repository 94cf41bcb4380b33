"""What `benchmarks.ablation` draws: a picture of each comparison, and a page with all of them."""

import json
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

from eval.results import replace_text
from pipeline import page
from pipeline.figures import BLUE, ORANGE, style, to_svg

COLORS = (BLUE, ORANGE, "#10b981")
POINTS = 100  # of a mean curve


def write(folder, variants, comparisons, results, tables, metric):
    """Writes COMPARISON.png for each, report.html and results.json into the folder.

    Args:
        variants: {name: Variant}; comparisons: [Comparison]; results: {name: [Run]};
        tables: {comparison's key: [Difference]}; metric: the key of the histories' lines.
    """
    folder = Path(folder)
    titles = {name: variant.title for name, variant in variants.items()}
    figures = {}
    for comparison in comparisons:
        histories = {
            titles[name]: [run.history for run in results[name]] for name in comparison.variants
        }
        figures[comparison.key] = draw(comparison.key, histories, metric, folder)
    finals = {name: [run.final for run in runs] for name, runs in results.items()}
    template = page.environment(Path(__file__).parent).get_template("ablation.html")
    replace_text(
        folder / "report.html",
        template.render(
            titles=titles,
            comparisons=comparisons,
            figures=figures,
            tables=tables,
            finals=finals,
            num_seeds=len(next(iter(finals.values()))),
        ),
    )
    summary = {
        "finals": finals,
        "differences": {key: [row._asdict() for row in rows] for key, rows in tables.items()},
        "histories": {name: [run.history for run in runs] for name, runs in results.items()},
    }
    replace_text(folder / "results.json", json.dumps(summary, indent=1) + "\n")


def draw(key, histories, metric, folder):
    """The training profiles against steps and against images; writes a PNG, returns the SVG."""
    with style(key):
        figure, panels = plt.subplots(1, 2, sharey=True, figsize=(9, 3.4))
        for axes, unit in zip(panels, ("step", "samples"), strict=True):
            for color, (title, runs) in zip(COLORS, histories.items(), strict=False):
                points, curves = on_one_grid(runs, unit, metric)
                axes.plot(points, curves.mean(axis=0), color=color, label=title)
                axes.fill_between(
                    points, curves.min(axis=0), curves.max(axis=0), color=color, alpha=0.2, lw=0
                )
            axes.set_xlabel({"step": "training steps", "samples": "images seen"}[unit])
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("MAP@100")
        panels[0].legend(loc="best")
        figure.tight_layout()
        figure.savefig(folder / f"{key}.png", dpi=150, facecolor="white")
        return to_svg(figure)


def on_one_grid(runs, unit, metric):
    """(points [n], metric [runs, n]); each run was evaluated at points of its own."""
    end = min(run[-1][unit] for run in runs)
    start = max(run[0][unit] for run in runs)
    points = np.linspace(min(start, end), end, POINTS)
    curves = [
        np.interp(points, [line[unit] for line in run], [line[metric] for line in run])
        for run in runs
    ]
    return points, np.array(curves)
