"""The metrics of a report: each a value with the definition that it was computed by.

`map_at_100` is the headline. A mean over classes has a second name, ending in `_unweighted`, in
which all classes weigh the same; `verified_` begins the names of what was computed with unknown
pairs of image and class masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval import average_precision as ap
from eval import baselines, intervals, top_predictions
from eval import uncut as uncut_ranking
from eval.average_precision import Accumulator, Result
from eval.ranking import Ranked
from eval.uncut import UncutResult

HEADLINE = "map_at_100"
TITLES = {
    "map_at_100": "MAP@100",
    "prior_map_at_100": "prior only, MAP@100",
    "random_map_at_100": "at random, MAP@100",
    "top_images_map_at_100": "by top 100 images of a class",
    "macro_ap": "without a cut, by class",
    "image_map_at_100": "by image",
}
# Of these there is one value: no class is weighted.
IMAGE_TITLES = {
    "micro_ap": "without a cut, all pairs",
    **{f"hit_at_{k}": f"hit@{k}" for k in top_predictions.RANKS},
    **{f"precision_at_{k}": f"precision@{k}" for k in top_predictions.RANKS},
    **{f"recall_at_{k}": f"recall@{k}" for k in top_predictions.RANKS},
    f"gap_at_{top_predictions.GAP_RANK}": f"GAP@{top_predictions.GAP_RANK}",
    "top_1_accuracy": "top-1 accuracy",
    "top_5_accuracy": "top-5 accuracy",
}
VERIFIED = "verified_"
_D1, _D2, _D3 = (ap.DEFINITIONS[name].format(k=ap.K) for name in ("D1", "D2", "D3"))
_MASKED = (
    "Only an image's labels and its verified negatives are scored; all other classes count as "
    "unknown and are never retrieved. "
)
_UNWEIGHTED = "_unweighted"


@dataclass(frozen=True)
class Measured:
    """What an accumulator comes to, and the influence of each image on D1."""

    result: Result
    ranked: Ranked
    influence: np.ndarray  # float64 [num_images], on the weighted mean
    influence_unweighted: np.ndarray

    @classmethod
    def of(cls, accumulator: Accumulator, weights: np.ndarray) -> Measured:
        ranked, result = accumulator.ranked(), accumulator.result()  # the former sorts for both
        weightings = np.stack([weights, np.ones_like(weights)])
        influences = intervals.influence(
            ranked,
            accumulator.labels(),
            result.positives,
            result.class_ap,
            weightings,
            accumulator.next_image,
        )
        return cls(result, ranked, *influences)


def compute(
    measured: Measured,
    weights: np.ndarray,
    training_counts: np.ndarray | None,
    weights_given: bool,
    uncut: UncutResult | None = None,
) -> dict[str, dict[str, Any]]:
    """Every metric by name, as {"value", "definition"}; the value is None if nothing was averaged.

    Those of D1 have a "standard_error" and an "interval" besides.

    Args:
        measured: of an accumulator with the same weights.
        weights: float64 [num_classes]; all 1 where no weights were given.
        training_counts: int64 [num_classes], for the prior-only baseline; None leaves it out.
        weights_given: whether the definitions speak of class weights.
        uncut: of the same images, ranked without a cut; None leaves its metrics out.
    """
    result = measured.result
    how = "weighted by the class weights" if weights_given else "all alike: no weights were given"
    values: dict[str, dict[str, Any]] = {}
    for suffix, class_weights, averaged, influence in (
        ("", weights, how, measured.influence),
        (_UNWEIGHTED, np.ones_like(weights), "all alike", measured.influence_unweighted),
    ):
        over_classes = f" Averaged over the classes with positives, {averaged}."
        for name, (class_values, definition) in _by_class(result, training_counts, uncut).items():
            mean = ap.weighted_mean(class_values, class_weights)
            values[name + suffix] = _metric(mean, definition + over_classes)
        values[HEADLINE + suffix] |= _interval(values[HEADLINE + suffix]["value"], influence)
    one = " All weights are 1."
    values["image_map_at_100"] = _metric(result.image_map, _D3 + ("" if weights_given else one))
    values["image_map_at_100_unweighted"] = _metric(result.image_map_unweighted, _D3 + one)
    if uncut is not None:
        values["micro_ap"] = _metric(uncut.micro_ap, uncut_ranking.DEFINITIONS["micro"])
    return values | _of_top_predictions(result)


def masked(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The metrics of an accumulator that saw verified pairs alone, under names that say so."""
    return {
        VERIFIED + name: {**metric, "definition": _MASKED + metric["definition"]}
        for name, metric in metrics.items()
    }


def _by_class(
    result: Result, training_counts: np.ndarray | None, uncut: UncutResult | None
) -> dict[str, tuple[np.ndarray, str]]:
    """{name: (a value a class, NaN where it does not count; what that value is)}."""
    positives, num_images = result.positives, result.num_images
    found = {HEADLINE: (result.class_ap, _D1)}
    if training_counts is not None:
        found["prior_map_at_100"] = (
            baselines.prior_ap(training_counts, positives, num_images, ap.K),
            f"Every image gets the same scores, the rank of each class by training count. {_D1}",
        )
    found["random_map_at_100"] = (
        baselines.random_ap(positives, num_images, ap.K),
        f"What independent random scores give on average over all draws. {_D1}",
    )
    found["top_images_map_at_100"] = (result.top_images_ap, _D2)
    if uncut is not None:
        found["macro_ap"] = (uncut.class_ap, uncut_ranking.DEFINITIONS["macro"])
    return found


def _of_top_predictions(result: Result) -> dict[str, dict[str, Any]]:
    top, definitions = result.top, top_predictions.DEFINITIONS
    values = {
        f"{name}_at_{k}": _metric(by_rank[k], definitions[name].format(k=k))
        for name, by_rank in (
            ("hit", top.hit),
            ("precision", top.precision),
            ("recall", top.recall),
        )
        for k in top_predictions.RANKS
    }
    values[f"gap_at_{top_predictions.GAP_RANK}"] = _metric(top.gap, definitions["gap"])
    if top.is_single_label:
        for k in (1, 5):
            definition = f"Share of the images whose one label is among the {k} highest scores."
            values[f"top_{k}_accuracy"] = _metric(top.hit[k], definition)
    return values


def _metric(value: float, definition: str) -> dict[str, Any]:
    return {"value": None if math.isnan(value) else value, "definition": definition}


def _interval(value: float | None, influence: np.ndarray) -> dict[str, Any]:
    if value is None:
        return {}
    error = intervals.standard_error(influence)
    return {"standard_error": error, "interval": list(intervals.interval(value, error))}
