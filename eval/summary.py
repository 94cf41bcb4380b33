"""What a tally comes to: the part of a report that speaks of scores, whatever gave them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval import curves, metrics
from eval.calibration import calibrate
from eval.evaluation_set import EvaluationSet
from eval.influence import Influence
from eval.metrics import Measured
from eval.ranking import divide
from eval.tally import Tally
from pipeline.cores import num_cores


def summarize(
    tally: Tally,
    evaluation_set: EvaluationSet,
    training_counts: np.ndarray | None,
    curve_classes: Sequence[int] | None,
    probability: str | None,
) -> tuple[dict[str, Any], Influence]:
    """The part of the report, as JSON values, and each image's influence on the headline.

    Args:
        tally: of every image of the evaluation set.
        training_counts: int64 [num_classes], or None where they are not known.
        curve_classes: ids of the classes whose curves are drawn; None: a few telling ones.
        probability: how a score becomes its class's probability, a value of PROBABILITY_OF; None:
            it does not, and is not calibrated.
    """
    weights = evaluation_set.weights
    weights_given = evaluation_set.weights_path is not None
    measured = Measured.of(tally.all, weights)
    result = measured.result
    uncut = None if tally.uncut is None else tally.uncut.result(num_cores())
    values = metrics.compute(measured, weights, training_counts, weights_given, uncut)
    if tally.verified is not None:
        of_verified = Measured.of(tally.verified, weights)
        values |= metrics.masked(metrics.compute(of_verified, weights, None, weights_given))
    if curve_classes is None:
        curve_classes = curves.telling_classes(result, weights)
    part = {
        "num_images": result.num_images,
        "num_classes": len(result.positives),
        "num_classes_with_positives": int((result.positives > 0).sum()),
        "labels_per_image": result.num_labels / result.num_images,
        "headline": metrics.HEADLINE,
        "metrics": values,
        "calibration": calibrate(*tally.all.pairs(), probability) if probability else None,
        "curves": {
            evaluation_set.vocabulary.classes[class_id]: curves.curve(
                measured.ranked, class_id, int(result.positives[class_id])
            )
            for class_id in curve_classes
            if result.positives[class_id]
        },
        "classes": _class_columns(measured, evaluation_set, training_counts),
    }
    influence = Influence(
        tuple(tally.image_ids()), measured.influence, measured.influence_unweighted
    )
    return part, influence


def _class_columns(
    measured: Measured, evaluation_set: EvaluationSet, training_counts: np.ndarray | None
) -> dict[str, list[Any]]:
    result, weights = measured.result, evaluation_set.weights
    total = math.fsum(weights[result.positives > 0])
    contribution = divide(weights * result.class_ap, np.full(len(weights), total))
    return {
        "class": list(evaluation_set.vocabulary.classes),
        "name": list(evaluation_set.vocabulary.names),
        "positives": result.positives.tolist(),
        "training_count": [None] * len(weights)
        if training_counts is None
        else training_counts.tolist(),
        "weight": weights.tolist(),
        "average_precision": _nan_to_none(result.class_ap),
        "top_images_average_precision": _nan_to_none(result.top_images_ap),
        "recall": _nan_to_none(result.recall),
        "contribution": _nan_to_none(contribution),
    }


def _nan_to_none(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
