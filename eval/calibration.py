"""Whether predictions come true as often as they say: probabilities against what was observed."""

from __future__ import annotations

from typing import Any

import numpy as np

NUM_BINS = 20

DEFINITION = (
    "Over the pairs of image and class that D1 retrieved, in {bins} bins of the probability, "
    "{probability}, of equal width: the mean over pairs of |mean probability - share of labels| "
    "of the pair's bin. Labels that were not retrieved do not enter."
)

_NAMES = {"sigmoid": "sigmoid(logit)", "identity": "the score itself"}


def calibrate(scores: np.ndarray, hits: np.ndarray, probability: str) -> dict[str, Any]:
    """The calibration error and its bins, as JSON values: see DEFINITION.

    Args:
        scores: float32, of retrieved pairs in any order.
        hits: bool, beside them.
        probability: "sigmoid" of a score, or "identity" where it is one, between 0 and 1.

    An empty bin has None for its mean and its share; of no pair at all the error is None.
    """
    probabilities = scores.astype(np.float64)
    if probability == "sigmoid":
        probabilities = 0.5 * (1 + np.tanh(0.5 * probabilities))  # overflows at neither end
    num_hits = np.bincount(_bins(probabilities[hits]), minlength=NUM_BINS)
    probabilities.sort()  # sums are rounded: in one order, they are the same to the bit
    bins = _bins(probabilities)
    count = np.bincount(bins, minlength=NUM_BINS)
    total = np.bincount(bins, probabilities, minlength=NUM_BINS)
    error = float(np.abs(total - num_hits).sum() / len(scores)) if len(scores) else None
    return {
        "definition": DEFINITION.format(bins=NUM_BINS, probability=_NAMES[probability]),
        "error": error,
        "bins": [
            {
                "low": index / NUM_BINS,
                "high": (index + 1) / NUM_BINS,
                "mean_probability": total[index] / count[index] if count[index] else None,
                "observed": num_hits[index] / count[index] if count[index] else None,
                "count": int(count[index]),
            }
            for index in range(NUM_BINS)
        ],
    }


def _bins(probabilities: np.ndarray) -> np.ndarray:
    return np.minimum((probabilities * NUM_BINS).astype(np.int64), NUM_BINS - 1)
