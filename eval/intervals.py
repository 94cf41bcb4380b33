"""How far a MAP@100 would move with other images: the infinitesimal jackknife.

    weighted, unweighted = influence(ranked, labels, positives, ...)
    standard_error(weighted)                            # of one checkpoint
    standard_error(weighted - weighted_of_another)      # of the paired difference of two

An image's influence is the derivative of the weighted mean of D1 by that image's multiplicity, at
1, where every sum over images counts each image that many times (Efron 1982, The Jackknife, the
Bootstrap and Other Resampling Plans, chapter 6). The standard error is the root of the sum of
their squares. It does what a bootstrap is used for without its fault here: a drawn positive that
is drawn twice ranks beside itself, which raises average precision, so that a percentile bootstrap
lies above what it should cover.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from eval.average_precision import LabelPairs
from eval.ranking import Ranked

Z = 1.959963984540054  # of a two-sided interval of 95% under a normal distribution

_PAIRS_TOGETHER = 1 << 17  # that are looked at; bounds memory, changes the last bits alone

DEFINITION = (
    "standard error: infinitesimal jackknife over images; interval: value - and + 1.96 standard "
    "errors, nominally 95%"
)


def influence(
    ranked: Ranked,
    labels: LabelPairs,
    positives: np.ndarray,
    class_ap: np.ndarray,
    weightings: np.ndarray,
    num_images: int,
) -> np.ndarray:
    """The derivatives of weighted means of D1 by each image's multiplicity.

    An image's sum to zero over images: twice as many of every kind change nothing. They are zero
    where no class with positives has a weight.

    Args:
        ranked, labels, positives, class_ap: of one accumulator.
        weightings: float64 [means, num_classes].
        num_images: one above the highest number of an image.

    Returns float64 [means, num_images].
    """
    counted = positives > 0
    shares = np.zeros(weightings.shape)  # d mean / d (sum of a class's precisions)
    for weights, share in zip(weightings, shares, strict=True):
        total = math.fsum(weights[counted])
        if total > 0:
            share[counted] = weights[counted] / total / positives[counted]
    moved = np.zeros((len(weightings), num_images))
    # Of each image the sums go in order of class: the same bits, however images were cut.
    for part, pairs_of_class in _by_classes(ranked, len(positives)):
        pull = _pull_on_precisions(part, pairs_of_class)
        for share, of_images in zip(shares, moved, strict=True):
            of_pairs = np.repeat(share, pairs_of_class) * pull
            of_images += np.bincount(part.images, of_pairs, minlength=num_images)
    class_ap = np.nan_to_num(class_ap)
    for share, of_images in zip(shares, moved, strict=True):
        of_labels = (share * class_ap)[labels.classes]
        of_images -= np.bincount(labels.images, of_labels, minlength=num_images)
    return moved


def _by_classes(ranked: Ranked, num_classes: int) -> Iterator[tuple[Ranked, np.ndarray]]:
    """The pairs of a few classes at a time, and how many each class has among them."""
    class_ids = np.arange(num_classes + 1, dtype=np.uint64)
    firsts = np.searchsorted(ranked.keys, class_ids << 32)
    steps = np.arange(0, len(ranked.keys), _PAIRS_TOGETHER)
    borders = np.unique([*np.searchsorted(firsts, steps, side="right") - 1, num_classes])
    for start, stop in itertools.pairwise(borders.tolist()):
        pairs_of_class = np.zeros(num_classes, np.int64)
        pairs_of_class[start:stop] = np.diff(firsts[start : stop + 1])
        some = slice(firsts[start], firsts[stop])
        yield Ranked(ranked.keys[some], ranked.hits[some], ranked.images[some]), pairs_of_class


def standard_error(values: np.ndarray) -> float:
    """The root of the sum of the squares of influences."""
    return math.sqrt(math.fsum(np.square(values)))


def interval(value: float, error: float) -> tuple[float, float]:
    """The nominal 95% interval around a value."""
    return value - Z * error, value + Z * error


def _pull_on_precisions(ranked: Ranked, pairs_of_class: np.ndarray) -> np.ndarray:
    """d (sum over a class's hits of precision) / d (multiplicity of the pair), of every pair.

    With R and T the number of pairs and of hits with at least a hit's score, its precision is T/R.
    A pair of label y counts in those of all hits that score no higher: each moves by (y - T/R)/R.
    A hit brings its own precision besides.
    """
    groups, num_hits, num_ranked = ranked.counts
    precisions = num_hits / num_ranked
    # Of every pair the hits that score no higher: from its equals' first to the last of its class.
    hits_before = np.cumsum(ranked.hits) - ranked.hits
    first = hits_before[ranked.tie_starts]
    last = np.searchsorted(groups, np.arange(len(pairs_of_class)), side="right")

    def sums_below(values: np.ndarray) -> np.ndarray:
        sums = np.append(0.0, np.cumsum(values))
        return np.repeat(sums[last], pairs_of_class) - sums[first]

    pull = -sums_below(precisions / num_ranked)
    pull[ranked.hits] += sums_below(1 / num_ranked)[ranked.hits] + precisions
    return pull
