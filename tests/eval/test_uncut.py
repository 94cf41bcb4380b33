"""Average precision without a cut, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from test_average_precision import LABELS, SCORES, as_arrays, random_case

from eval import uncut
from eval.retrieval import truth_of
from eval.uncut import UncutRanking


def result_of(scores, labels):
    ranking = UncutRanking(scores.shape[1])
    for start in range(0, len(scores), 5):
        truth = truth_of(as_arrays(labels[start : start + 5]), scores.shape[1])
        ranking.add(scores[start : start + 5], truth)
    return ranking.result(num_cores=2)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("chunk", [1, 100, 1 << 23])
def test_it_equals_scikit_learn_ties_included(seed, chunk, monkeypatch):
    monkeypatch.setattr(uncut, "_CHUNK_SCORES", chunk)
    scores, labels, truth, _ = random_case(seed)
    scores = np.nan_to_num(scores, posinf=9, neginf=-9)  # scikit-learn takes finite scores alone
    result = result_of(scores, labels)
    for c in range(scores.shape[1]):
        if truth[:, c].any():
            expected = average_precision_score(truth[:, c], scores[:, c])
            assert result.class_ap[c] == pytest.approx(expected, rel=1e-12)
        else:
            assert np.isnan(result.class_ap[c])
    if truth.any():
        expected = average_precision_score(truth.ravel(), scores.ravel())
        assert result.micro_ap == pytest.approx(expected, rel=1e-12)
    else:
        assert np.isnan(result.micro_ap)


def test_the_worked_example():
    # C: scores 3, 2 (hit), 1 (hit): (1/2 + 2/3) / 2. In one ranking of all nine pairs: the three
    # 3s hold A0, B1 and C1, two hits; the four 2s B0, A2, B2, C2 two more; the 1s hold C0.
    # (2 * 2/3 + 2 * 4/7 + 5/9) / 5
    result = result_of(SCORES, LABELS)
    np.testing.assert_allclose(result.class_ap, [1, 5 / 6, 7 / 12], rtol=1e-15)
    assert result.micro_ap == pytest.approx((4 / 3 + 8 / 7 + 5 / 9) / 5, rel=1e-15)


def test_minus_infinity_is_not_ranked():
    result = result_of(np.array([[-np.inf], [1], [0]], np.float32), [[0], [], [0]])
    np.testing.assert_allclose(result.class_ap, [1 / 4])  # one hit, second of the two ranked
    assert result.micro_ap == 1 / 4


def test_no_images_give_no_number():
    result = UncutRanking(2).result()
    assert np.isnan(result.class_ap).all()
    assert np.isnan(result.micro_ap)
