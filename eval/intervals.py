"""How far a MAP@100 would move with other images: the infinitesimal jackknife.

    values = influence(accumulator.ranked(), labels, result, weights)   # one value an image
    standard_error(values)                                              # of one checkpoint
    standard_error(values - values_of_another)                          # of the paired difference

An image's influence is the derivative of the weighted mean of D1 by that image's multiplicity, at
1, where every sum over images counts each image that many times (Efron 1982, The Jackknife, the
Bootstrap and Other Resampling Plans, chapter 6). The standard error is the root of the sum of
their squares. It does what a bootstrap is used for without its fault here: a drawn positive that
is drawn twice ranks beside itself, which raises average precision, so that a percentile bootstrap
lies above what it should cover.
"""

from __future__ import annotations

import math

import numpy as np

from eval.average_precision import LabelPairs, Result
from eval.ranking import Ranked

Z = 1.959963984540054  # of a two-sided interval of 95% under a normal distribution

DEFINITION = (
    "standard error: infinitesimal jackknife over images; interval: value - and + 1.96 standard "
    "errors, nominally 95%"
)


def influence(
    ranked: Ranked, labels: LabelPairs, result: Result, weights: np.ndarray, num_images: int
) -> np.ndarray:
    """The derivative of the weighted mean of D1 by each image's multiplicity, float64 [num_images].

    It sums to zero: twice as many images of every kind change nothing. All zero where no class
    with positives has a weight.

    Args:
        ranked, labels, result: of one accumulator.
        weights: float64 [num_classes].
        num_images: one above the highest number of an image.
    """
    counted = result.positives > 0
    share = np.zeros(len(weights))  # d mean / d (sum of a class's precisions)
    total = math.fsum(weights[counted])
    if total > 0:
        share[counted] = weights[counted] / total / result.positives[counted]
    of_pairs = share[ranked.classes] * _pull_on_precisions(ranked)
    of_labels = share[labels.classes] * np.nan_to_num(result.class_ap)[labels.classes]
    # Summed image by image in order of class: the same bits, however the images were cut.
    order = np.lexsort((labels.classes, labels.images))
    moved = np.bincount(ranked.images, of_pairs, minlength=num_images)
    return moved - np.bincount(labels.images[order], of_labels[order], minlength=num_images)


def standard_error(values: np.ndarray) -> float:
    """The root of the sum of the squares of influences."""
    return math.sqrt(math.fsum(np.square(values)))


def interval(value: float, error: float) -> tuple[float, float]:
    """The nominal 95% interval around a value."""
    return value - Z * error, value + Z * error


def _pull_on_precisions(ranked: Ranked) -> np.ndarray:
    """d (sum over a class's hits of precision) / d (multiplicity of the pair), of every pair.

    With R and T the number of pairs and of hits with at least a hit's score, its precision is T/R.
    A pair of label y counts in those of all hits that score no higher: each moves by (y - T/R)/R.
    A hit brings its own precision besides.
    """
    where = np.flatnonzero(ranked.hits)
    keys = ranked.keys[where]
    groups = keys >> np.uint64(32)
    num_ranked = np.searchsorted(ranked.keys, keys, side="right") - np.searchsorted(
        ranked.keys, groups << np.uint64(32)
    )
    num_hits = np.searchsorted(keys, keys, side="right") - np.searchsorted(groups, groups)
    precisions = num_hits / num_ranked
    # Of every pair the hits that score no higher are those from `first` to the end of its class.
    first = np.searchsorted(keys, ranked.keys)
    last = np.searchsorted(groups, ranked.keys >> np.uint64(32), side="right")
    pull = -_sums_between(precisions / num_ranked, first, last)
    gain = _sums_between(1 / num_ranked, first, last)
    pull[ranked.hits] += gain[ranked.hits] + precisions
    return pull


def _sums_between(values: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """values[first:last].sum(), for arrays of both."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return sums[last] - sums[first]
