"""The report's figures, as SVG to be put inside the page; their style is pipeline.figures'."""

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter

from eval.frequency import Group
from pipeline.figures import BLUE, ORANGE, style, to_svg

_MANY_POINTS = 2000  # from here on a scatter is drawn as pixels


def training_profile(
    map_points: Sequence[tuple[int, float]], prior: float, loss_points: np.ndarray
) -> str:
    """MAP@100 against training steps, above the training loss [n, 2] where there is one."""
    with style("profile"):
        num_panels = 2 if len(loss_points) else 1
        figure, panels = plt.subplots(
            num_panels, 1, sharex=True, squeeze=False, figsize=(7, 2.9 * num_panels)
        )
        top = panels[0, 0]
        steps, values = zip(*map_points, strict=True)
        top.plot(steps, values, marker="o", markersize=4, color=BLUE, label="MAP@100")
        top.axhline(prior, linestyle="--", linewidth=1.2, color=ORANGE, label="prior only")
        top.set_ylabel("MAP@100")
        top.set_ylim(bottom=0)
        top.legend(loc="best")
        if len(loss_points):
            panels[1, 0].plot(*loss_points.T, linewidth=1.2, color=BLUE)
            panels[1, 0].set_ylabel("training loss")
        bottom = panels[-1, 0]
        bottom.set_xlabel("training steps")
        bottom.set_xlim(left=0)
        bottom.xaxis.set_major_formatter(EngFormatter(sep=""))
        return to_svg(figure)


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
        figure, axes = plt.subplots(figsize=(7, 3.4))
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
    for group in groups:
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
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )
