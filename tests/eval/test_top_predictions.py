"""Hit, precision and recall at k, GAP@20 and the baselines: by hand and by enumeration."""

import itertools
import math

import numpy as np
import pytest
import slow_reference
from test_average_precision import LABELS, SCORES, evaluate

from eval import baselines
from eval.calibration import calibrate


def test_the_worked_example():
    # First predictions (of equal scores the lower class id): A, B, A; image 0 has A and C, image 1
    # has B, image 2 has B and C. At 1 hits in images 0 and 1; at 5 all labels are found.
    top = evaluate(SCORES, LABELS).top
    assert top.hit == {1: 2 / 3, 5: 1, 10: 1, 100: 1}
    assert top.precision[1] == pytest.approx(2 / 3)
    assert top.precision[5] == pytest.approx(5 / 15)
    assert top.recall[1] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert top.recall[100] == 1
    # One ranking of all nine pairs: see test_uncut.
    assert top.gap == pytest.approx((4 / 3 + 8 / 7 + 5 / 9) / 5)
    assert not top.is_single_label


def test_gap_ranks_twenty_predictions_of_an_image_and_counts_every_label():
    # 25 classes, one image: labels are the best and the worst; the worst is not retrieved.
    scores = np.arange(25, 0, -1, dtype=np.float32)[None]
    assert evaluate(scores, [[0, 24]]).top.gap == 1 / 2


def test_images_without_labels_do_not_count_and_single_labels_are_known():
    top = evaluate(SCORES, [[0], [], [1]]).top
    assert top.hit[1] == 1 / 2
    assert not top.is_single_label
    assert evaluate(SCORES, [[0], [1], [1]]).top.is_single_label
    assert math.isnan(evaluate(SCORES, [[], [], []]).top.gap)


@pytest.mark.parametrize(("num_classes", "k"), [(1, 1), (2, 1), (3, 2), (2, 5)])
@pytest.mark.parametrize("num_positives", [1, 2, 3])
def test_the_random_baseline_is_the_mean_over_all_rankings(num_classes, k, num_positives):
    # Class 0 of three images: its rank among all scores of the matrix decides everything, and all
    # orders of the matrix are as likely. For more than six scores, drawn orders.
    num_images, size = 3, 3 * num_classes
    labels = [[0] if image < num_positives else [] for image in range(num_images)]
    if size <= 6:
        orders = list(itertools.permutations(range(size)))
    else:
        rng = np.random.default_rng(0)
        orders = [rng.permutation(size) for _ in range(20_000)]
    values = []
    for order in orders:
        rows = np.array(order, float).reshape(num_images, num_classes).tolist()
        values.append(float(slow_reference.class_ap(rows, labels, k)[0]))
    positives = np.array([num_positives] + [0] * (num_classes - 1))
    found = baselines.random_ap(positives, num_images, k)
    error = 0 if size <= 6 else 4 * np.std(values) / math.sqrt(len(values))
    assert found[0] == pytest.approx(np.mean(values), abs=1e-12 + error)
    assert np.isnan(found[1:]).all()


def test_calibration_by_hand():
    # Two bins: logits -5 and -4 have probabilities 0.00669 and 0.01799, none true; logit 0 has 0.5,
    # and both of its two pairs are true.
    scores, hits = np.array([-5, -4, 0, 0], np.float32), np.array([False, False, True, True])
    found = calibrate(scores, hits, "sigmoid")
    low = (1 / (1 + math.exp(5)) + 1 / (1 + math.exp(4))) / 2
    assert found["error"] == pytest.approx((2 * low + 2 * 0.5) / 4)
    bins = {bin["low"]: bin for bin in found["bins"] if bin["count"]}
    assert bins[0.0]["mean_probability"] == pytest.approx(low)
    assert bins[0.0]["observed"] == 0
    assert bins[0.5]["observed"] == 1
    assert sum(bin["count"] for bin in found["bins"]) == 4
    empty = [bin for bin in found["bins"] if not bin["count"]]
    assert all(bin["observed"] is None for bin in empty)


def test_calibration_of_infinite_logits_and_of_probabilities():
    ends = calibrate(np.array([np.inf, -1000], np.float32), np.array([True, False]), "sigmoid")
    assert ends["error"] == 0
    found = calibrate(np.array([1.0, 0.25], np.float32), np.array([True, True]), "identity")
    assert found["error"] == 0.75 / 2
    nothing = calibrate(np.empty(0, np.float32), np.empty(0, bool), "sigmoid")
    assert nothing["error"] is None
