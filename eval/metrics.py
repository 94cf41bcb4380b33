"""The metrics of a report: each a value with the definition that it was computed by.

`map_at_100` is the headline. Every name has a second one, ending in `_unweighted`, in which all
classes weigh the same.
"""

import math
from typing import Any

import numpy as np

from eval import average_precision as ap

HEADLINE = "map_at_100"
TITLES = {
    "map_at_100": "MAP@100",
    "prior_map_at_100": "prior only, MAP@100",
    "top_images_map_at_100": "by top 100 images of a class",
    "image_map_at_100": "by image",
}
_D1, _D2, _D3 = (ap.DEFINITIONS[name].format(k=ap.K) for name in ("D1", "D2", "D3"))


def compute(
    result: ap.Result, weights: np.ndarray, training_counts: np.ndarray, weights_given: bool
) -> dict[str, dict[str, Any]]:
    """Every metric by name, as {"value", "definition"}; the value is None if nothing was averaged.

    Args:
        result: of an accumulator with the same weights.
        weights: float64 [num_classes]; all 1 where no weights were given.
        training_counts: int64 [num_classes], for the prior-only baseline.
        weights_given: whether the definitions speak of class weights.
    """
    prior = ap.prior_ap(training_counts, result.positives, result.num_images)
    how = "weighted by the class weights" if weights_given else "all alike: no weights were given"
    values = {}
    for suffix, class_weights, image_map, averaged in (
        ("", weights, result.image_map, how),
        ("_unweighted", np.ones_like(weights), result.image_map_unweighted, "all alike"),
    ):
        over_classes = f"Averaged over the classes with positives, {averaged}."
        over_images = "" if weights_given and not suffix else " All weights are 1."
        definitions = {
            "map_at_100": f"{_D1} {over_classes}",
            "prior_map_at_100": (
                "Every image gets the same scores, the rank of each class by training count. "
                f"{_D1} {over_classes}"
            ),
            "top_images_map_at_100": f"{_D2} {over_classes}",
            "image_map_at_100": f"{_D3}{over_images}",
        }
        numbers = {
            "map_at_100": ap.weighted_mean(result.class_ap, class_weights),
            "prior_map_at_100": ap.weighted_mean(prior, class_weights),
            "top_images_map_at_100": ap.weighted_mean(result.top_images_ap, class_weights),
            "image_map_at_100": image_map,
        }
        for name, number in numbers.items():
            values[name + suffix] = {
                "value": None if math.isnan(number) else number,
                "definition": definitions[name],
            }
    return values
