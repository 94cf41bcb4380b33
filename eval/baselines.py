"""MAP@100 of scores that look at no image: by class frequency alone, and at random."""

from __future__ import annotations

import numpy as np

from eval.retrieval import retrieve, truth_of


def prior_scores(class_counts: np.ndarray) -> np.ndarray:
    """Scores, float32 [classes], that rank classes by their training counts, whatever the image.

    The rank of the count, not the count: above 2^24 float32 would tie counts that differ.
    """
    return np.unique(class_counts, return_inverse=True)[1].astype(np.float32)


def prior_ap(
    class_counts: np.ndarray, positives: np.ndarray, num_images: int, k: int
) -> np.ndarray:
    """D1 per class of `prior_scores` given to every image, NaN for a class without positives.

    As all images tie, a retrieved class has its share of positives for average precision.
    """
    scores = prior_scores(class_counts)[None, :]
    retrieved = np.zeros(len(class_counts), bool)
    no_labels = truth_of([np.empty(0, np.int64)], len(class_counts))
    retrieved[retrieve(scores, no_labels, k).classes] = True
    return np.where(positives > 0, retrieved * (positives / num_images), np.nan)


def random_ap(positives: np.ndarray, num_images: int, k: int) -> np.ndarray:
    """D1 per class of independent random scores: its expectation; NaN without positives.

    Each of N images retrieves a class with probability q = min(1, k / classes), so that m of them
    do, binomially, in random order. The j-th is a hit with probability n/N, and each of those
    before it is then another of the n - 1 among N - 1. Hence, over the j up to m,

        E[sum of precisions | m] = sum n/N (1 + (j - 1) (n - 1)/(N - 1)) / j
                                 = n/N (H_m + (n - 1)/(N - 1) (m - H_m))

    with harmonic numbers H; E[H_m] is the sum of (1 - (1 - q)^j) / j for j up to N.
    """
    if num_images == 0:
        return np.full(len(positives), np.nan)
    share = min(1.0, k / len(positives))
    places = np.arange(1, num_images + 1)
    harmonic = float(np.sum((1 - (1 - share) ** places) / places))
    of_others = np.maximum(positives - 1, 0) / max(num_images - 1, 1)
    expected = (harmonic + of_others * (num_images * share - harmonic)) / num_images
    return np.where(positives > 0, expected, np.nan)
