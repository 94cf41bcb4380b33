"""Figures as SVG to be put inside a page: their common style, and those of the data report.

Text and axes take the page's own text colour, so that a figure reads in light and in dark.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, NullLocator

BLUE, ORANGE = "#3b82f6", "#f59e0b"
_INK = "#010203"  # stands for the page's text colour, see to_svg
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: smaller, and set in the page's font
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_HALF_WIDTH = (5, 2.9)  # inches: two stand beside each other, and one is legible on a telephone
_MOST_POINTS = 300  # of a curve
_MOST_BARS = 30  # the last one has everything above, too
_OCTAVE_BARS = 8  # bars from a size to its double


@contextlib.contextmanager
def style(name: str) -> Iterator[None]:
    """The page's style; `name` keeps the ids inside a figure from those of another."""
    with plt.rc_context({**_STYLE, "svg.hashsalt": name}):
        yield


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element; the same input gives the same text."""
    figure.tight_layout()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None})
    plt.close(figure)
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor")


def long_tail(counts: Sequence[int]) -> str:
    """Examples of each class against its rank, both in logarithms; `counts` are positive."""
    ordered = np.sort(np.asarray(counts))[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), _MOST_POINTS).round().astype(int))
    half = classes_of_half(counts)
    with style("long_tail"):
        figure, axes = plt.subplots(figsize=_HALF_WIDTH)
        few = len(ranks) < 40
        axes.plot(ranks, ordered[ranks - 1], color=BLUE, marker="o" if few else "", markersize=3)
        axes.axvline(half, linestyle="--", linewidth=1.2, color=ORANGE)
        right = half**2 > len(ordered)  # of the middle, where the text goes to the left
        axes.annotate(
            "half of all labels",
            (half, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if right else 5, -2),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
        )
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_locator(NullLocator())
        axes.set_ylim(min(1, ordered[-1]) * 0.8, ordered[0] * 2)
        axes.set_xlabel("class, by rank")
        axes.set_ylabel("examples")
        return to_svg(figure)


def classes_of_half(counts: Sequence[int]) -> int:
    """How many of the most frequent classes hold half of all labels."""
    ordered = np.sort(np.asarray(counts))[::-1]
    return int(np.searchsorted(ordered.cumsum(), ordered.sum() / 2)) + 1


def labels_per_image(images: Mapping[int, int]) -> str:
    """How many images have so many labels: `images` by number of labels."""
    last = min(max(images), _MOST_BARS)
    bars = np.zeros(last + 1)
    for num_labels, count in images.items():
        bars[min(num_labels, last)] += count
    with style("labels_per_image"):
        figure, axes = plt.subplots(figsize=_HALF_WIDTH)
        axes.bar(range(last + 1), bars, width=0.8, color=BLUE)
        if max(images) > last:
            axes.set_xticks(range(0, last + 1, 5))
            _name_ticks(axes, lambda x: f"{last}+" if x == last else f"{x:.0f}")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(-0.6, last + 0.6)
        axes.set_xlabel("labels of an image")
        _count_images(axes)
        return to_svg(figure)


def shorter_sides(images: Mapping[int, int], target: int | None) -> str:
    """How many images are so large: `images` by the shorter side in pixels, in steps of 16."""
    bars: dict[tuple[int, int], int] = {}
    for size, count in images.items():
        bar = _size_bar(size)
        bars[bar] = bars.get(bar, 0) + count
    edges = np.array(sorted(bars))
    with style("shorter_sides"):
        figure, axes = plt.subplots(figsize=_HALF_WIDTH)
        heights = [bars[start, end] for start, end in edges.tolist()]
        lefts, widths = edges[:, 0], edges[:, 1] - edges[:, 0]
        axes.bar(lefts, heights, width=widths * 0.92, align="edge", color=BLUE)
        axes.set_xscale("log", base=2)
        _name_ticks(axes, lambda x: f"{x:.0f}")
        lowest, highest = edges[0, 0], edges[-1, 1]
        if target is not None:
            axes.axvline(target, linestyle="--", linewidth=1.2, color=ORANGE, label=f"{target} px")
            lowest, highest = min(lowest, target), max(highest, target)
            axes.legend(loc="upper right")
        axes.set_xlim(lowest / 1.4, highest * 1.4)
        axes.set_xlabel("shorter side of the source, pixels")
        _count_images(axes)
        return to_svg(figure)


def _size_bar(size: int) -> tuple[int, int]:
    """The bar of a size: 16 pixels wide below 128, from there an eighth of the octave.

    All edges are multiples of 16, so that each step of the sizes falls into one bar.
    """
    octave = 1 << max(size.bit_length() - 1, 7)
    width = octave // _OCTAVE_BARS
    start = size // width * width
    return max(start, 1), start + width


def _name_ticks(axes: Axes, name: Callable[[float], str]) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: name(x)))


def _count_images(axes: Axes) -> None:
    axes.set_ylabel("images")
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(axis="x", visible=False)
