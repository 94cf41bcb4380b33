"""Influences against derivatives of the slow reference, and what follows from their definition."""

from fractions import Fraction

import numpy as np
import pytest
import slow_reference
from test_average_precision import as_arrays, random_case

from eval import intervals
from eval.average_precision import Accumulator, weighted_mean


def influence(scores, labels, weights, k, cuts=()):
    accumulator = Accumulator(scores.shape[1], weights, k)
    for start, stop in zip([0, *cuts], [*cuts, len(scores)], strict=True):
        part = Accumulator(scores.shape[1], weights, k, first_image=start)
        part.update(scores[start:stop], as_arrays(labels[start:stop]))
        accumulator.merge(part)
    result = accumulator.result()
    return intervals.influence(
        accumulator.ranked(),
        accumulator.labels(),
        result.positives,
        result.class_ap,
        weights[None],
        accumulator.next_image,
    )[0]


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize(("k", "pairs"), [(2, 1 << 17), (100, 1 << 17), (100, 7)])
def test_an_influence_is_the_derivative_by_the_images_multiplicity(seed, k, pairs, monkeypatch):
    monkeypatch.setattr(intervals, "_PAIRS_TOGETHER", pairs)
    scores, labels, _, weights = random_case(seed)
    scores, labels = scores[:12], labels[:12]
    found = influence(scores, labels, weights, k)
    rows, step = scores.tolist(), Fraction(1, 10**7)
    for image in range(len(rows)):
        moved = []
        for sign in (1, -1):
            times = [Fraction(1)] * len(rows)
            times[image] += sign * step
            moved.append(slow_reference.mean_class_ap(rows, labels, weights, k, times))
        expected = 0 if moved[0] is None else float((moved[0] - moved[1]) / (2 * step))
        assert found[image] == pytest.approx(expected, abs=1e-11)


def test_the_influences_of_the_worked_example():
    # One class, scores 3 (hit), 2, 1 (hit), so that AP = (1 + 2/3) / 2 = 5/6. With multiplicities
    # a, b, c: AP = (a + c (a + c)/(a + b + c)) / (a + c). By a, b and c at 1:
    #   a: (1 + 1/3 - 2/9) / 2 - 5/6 / 2 = 5/36
    #   b: -2/9 / 2                      = -1/9
    #   c: (2/3 + 1/3 - 2/9) / 2 - 5/12  = -1/36
    scores = np.array([[3], [2], [1]], np.float32)
    found = influence(scores, [[0], [], [0]], np.ones(1), 100)
    np.testing.assert_allclose(found, [5 / 36, -1 / 9, -1 / 36], rtol=1e-14)
    error = intervals.standard_error(found)
    assert error == pytest.approx(np.sqrt(25 + 16 + 1) / 36)
    low, high = intervals.interval(5 / 6, error)
    assert (low, high) == pytest.approx((5 / 6 - 1.959964 * error, 5 / 6 + 1.959964 * error))


@pytest.mark.parametrize("seed", range(12))
def test_influences_sum_to_zero_and_do_not_depend_on_how_images_were_cut(seed):
    scores, labels, _, weights = random_case(seed)
    whole = influence(scores, labels, weights, 3)
    assert whole.sum() == pytest.approx(0, abs=1e-12)
    cuts = sorted(np.random.default_rng(seed).integers(0, len(scores) + 1, 2))
    np.testing.assert_array_equal(influence(scores, labels, weights, 3, cuts), whole)


def test_the_standard_error_is_near_that_of_leaving_out_each_image_in_turn():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 5)).astype(np.float32)
    truth = rng.random((400, 5)) < 0.3
    scores[truth] += 1
    labels = [np.flatnonzero(row).tolist() for row in truth]
    found = influence(scores, labels, np.ones(5), 3)
    left_out = np.array(
        [mean_ap(np.delete(scores, i, 0), labels[:i] + labels[i + 1 :]) for i in range(400)]
    )
    jackknife = np.sqrt(399 / 400 * np.square(left_out - left_out.mean()).sum())
    assert intervals.standard_error(found) == pytest.approx(jackknife, rel=0.03)
    assert np.corrcoef(-left_out, found)[0, 1] > 0.99


def mean_ap(scores, labels):
    accumulator = Accumulator(scores.shape[1], None, 3)
    accumulator.update(scores, as_arrays(labels))
    return weighted_mean(accumulator.result().class_ap, np.ones(scores.shape[1]))


def test_no_weighted_positive_has_no_influence():
    scores = np.array([[1, 2], [2, 1]], np.float32)
    np.testing.assert_array_equal(influence(scores, [[0], [0]], np.array([0.0, 1.0]), 2), [0, 0])
