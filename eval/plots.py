"""The report's figures, as SVG to be put inside the page; their style is pipeline.figures'.

No name of a class is ever drawn: names are text of the page, whatever characters they hold.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, NullLocator

from eval.frequency import Group
from pipeline.figures import BLUE, ORANGE, style, to_svg

_RUN_COLORS = (BLUE, "#10b981")  # this run, the one that it is compared with
_HALF_WIDTH = (5, 2.9)  # inches: two stand beside each other, and one is legible on a telephone
_MANY_POINTS = 2000  # from here on a scatter is drawn as pixels


@dataclasses.dataclass(frozen=True)
class Profile:
    """One run as a curve: MAP@100 with its interval, and the training loss where it is known."""

    label: str
    history: Sequence[dict[str, Any]]  # of Results.history
    losses: np.ndarray  # [n, 2], by the same axis


def map_profile(runs: Sequence[Profile], axis: str) -> str:
    """MAP@100 of the first run, and of one to compare it with; the band is its interval.

    Args:
        runs: one or two, with a history.
        axis: "step" or "samples", what of a run's history the values stand against.
    """
    with style(f"map_by_{axis}"):
        figure, axes = plt.subplots(figsize=_HALF_WIDTH)
        for run, color in zip(runs, _RUN_COLORS, strict=False):
            _draw_history(axes, run, axis, color)
        prior = runs[0].history[-1].get("prior_map_at_100")
        if prior is not None:
            axes.axhline(prior, linestyle="--", linewidth=1.2, color=ORANGE, label="prior only")
        axes.set_ylabel("MAP@100")
        axes.set_ylim(bottom=0)
        axes.legend(loc="best")
        _finish(axes, axis)
        return to_svg(figure)


def loss_profile(runs: Sequence[Profile], axis: str) -> str:
    """The training losses, against the same axis."""
    with style(f"loss_by_{axis}"):
        figure, axes = plt.subplots(figsize=_HALF_WIDTH)
        for run, color in zip(runs, _RUN_COLORS, strict=False):
            axes.plot(*run.losses.T, linewidth=1.2, color=color)
        axes.set_ylabel("training loss")
        _finish(axes, axis)
        return to_svg(figure)


def _finish(axes: Axes, axis: str) -> None:
    axes.set_xlabel({"step": "training steps", "samples": "training images"}[axis])
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _draw_history(axes: Axes, run: Profile, axis: str, color: str) -> None:
    places = [line[axis] for line in run.history]
    values = [line["map_at_100"] for line in run.history]
    axes.plot(places, values, marker="o", markersize=4, color=color, label=run.label)
    intervals = [line.get("map_at_100_interval") for line in run.history]
    low = [interval[0] if interval else np.nan for interval in intervals]
    high = [interval[1] if interval else np.nan for interval in intervals]
    if any(intervals):
        axes.fill_between(places, low, high, color=color, alpha=0.18, linewidth=0)


def ap_by_frequency(
    training_counts: Sequence[int],
    average_precision: Sequence[float | None],
    groups: Sequence[Group],
) -> str:
    """Average precision of each class against its training images, with the groups' means."""
    points = [
        (count, ap)
        for count, ap in zip(training_counts, average_precision, strict=True)
        if ap is not None
    ]
    with style("frequency"):
        figure, axes = plt.subplots(figsize=_HALF_WIDTH)
        counts, values = zip(*points, strict=True)
        many = len(points) > _MANY_POINTS
        axes.scatter(counts, values, s=4 if many else 14, alpha=0.45, color=BLUE, linewidths=0)
        axes.collections[0].set_rasterized(many)
        _draw_groups(axes, groups)
        axes.set_xscale("symlog", linthresh=1)  # a logarithm that has a place for 0
        axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: EngFormatter(sep="")(count)))
        axes.set_xlim(left=min(counts) * 0.8 or -0.2)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("training images of the class")
        axes.set_ylabel("average precision")
        return to_svg(figure)


def _draw_groups(axes: Axes, groups: Sequence[Group]) -> None:
    for place, group in enumerate(groups):
        mean = group.mean_average_precision
        axes.plot(
            [group.lowest_count, group.highest_count],
            [mean, mean],
            color=ORANGE,
            linewidth=2.5,
            solid_capstyle="round",
        )
        middle = (max(group.lowest_count, 1) * max(group.highest_count, 1)) ** 0.5
        axes.annotate(
            f"{group.name} {mean:.2f}",
            (middle, mean),
            xytext=(0, -13 if place == 1 else 5),  # the torso's below: they may be neighbours
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )


def precision_recall(recall: Sequence[float], precision: Sequence[float], share: float) -> str:
    """Precision against recall of one class; the dashed line is its share of the images."""
    with style("precision_recall"):
        figure, axes = plt.subplots(figsize=(2.2, 2))
        axes.step(recall, precision, where="pre", color=BLUE, linewidth=1.6)
        axes.fill_between(recall, precision, step="pre", color=BLUE, alpha=0.12, linewidth=0)
        axes.axhline(share, linestyle="--", linewidth=1.2, color=ORANGE)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.04)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        return to_svg(figure)


def calibration(bins: Sequence[dict[str, Any]]) -> str:
    """What was observed against the probability that was said, above how often it was said."""
    filled = [part for part in bins if part["count"]]
    with style("calibration"):
        figure, (top, bottom) = plt.subplots(
            2, 1, sharex=True, figsize=(5, 4.2), height_ratios=(3, 1)
        )
        top.plot([0, 1], [0, 1], linestyle="--", linewidth=1.2, color=ORANGE, label="perfect")
        top.plot(
            [part["mean_probability"] for part in filled],
            [part["observed"] for part in filled],
            marker="o",
            markersize=5,
            color=BLUE,
            label="observed",
        )
        top.set_ylim(-0.03, 1.03)
        top.set_ylabel("share of positives")
        top.legend(loc="upper left")
        bottom.bar(
            [part["low"] for part in filled],
            [part["count"] for part in filled],
            width=[part["high"] - part["low"] for part in filled],
            align="edge",
            color=BLUE,
            alpha=0.6,
            linewidth=0,
        )
        bottom.set_yscale("log")
        bottom.yaxis.set_major_formatter(EngFormatter(sep=""))
        bottom.yaxis.set_minor_locator(NullLocator())
        bottom.set_ylabel("predictions")
        bottom.set_xlim(0, 1)
        bottom.set_xlabel("probability said")
        return to_svg(figure)
