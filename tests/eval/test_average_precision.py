"""The three definitions: by hand, against scikit-learn, and against a slow reference."""

import dataclasses
import math

import numpy as np
import pytest
import slow_reference
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

from eval import average_precision, baselines, ranking
from eval.average_precision import Accumulator, NotANumberError, weighted_mean
from eval.baselines import prior_ap

# The worked example: rows are images, columns the classes A, B and C; k = 2.
SCORES = np.array([[3, 2, 1], [1, 3, 3], [2, 2, 2]], np.float32)
LABELS = [[0, 2], [1], [1, 2]]
WEIGHTS = np.array([1.0, 2.0, 3.0])


def evaluate(scores, labels, weights=None, k=100, block=None, first_image=0):
    accumulator = Accumulator(scores.shape[1], weights, k, first_image)
    block = block or max(1, len(scores))
    for start in range(0, len(scores), block):
        accumulator.update(scores[start : start + block], as_arrays(labels[start : start + block]))
    return accumulator.result()


def as_arrays(labels):
    return [np.array(ids, np.int64) for ids in labels]


def random_case(seed):
    """Scores of one of four kinds: all different, few levels, one level, zeros of both signs."""
    rng = np.random.default_rng(seed)
    num_images, num_classes = rng.integers(1, 40), rng.integers(1, 30)
    shape = (num_images, num_classes)
    scores = [
        lambda: rng.normal(size=shape),
        lambda: rng.integers(-2, 3, size=shape),
        lambda: np.full(shape, -1.5),
        lambda: rng.choice([-0.0, 0.0, 1e-45, -1e-45], size=shape),
    ][seed % 4]().astype(np.float32)
    if seed % 3 == 0:
        scores[rng.random(shape) < 0.3] = -np.inf
        scores[rng.random(shape) < 0.05] = np.inf
    truth = rng.random(shape) < rng.choice([0.02, 0.2, 0.9])
    weights = rng.integers(0, 4, size=num_classes).astype(np.float64)
    return scores, [np.flatnonzero(row).tolist() for row in truth], truth, weights


def test_the_worked_example_of_d1():
    # Retrieved: A in images 0 and 2; B in all three; C in image 1 alone: in image 2 the three
    # classes tie for two places, and the lower ids win.
    #   A: scores 3 (hit), 2             1/1 over 1 positive            = 1
    #   B: scores 3 (hit), 2, 2 (hit)    1/1 + 2/3 over 2, 2s as one    = 5/6
    #   C: score 3 (no hit)              0 over 2                       = 0
    result = evaluate(SCORES, LABELS, WEIGHTS, k=2)
    np.testing.assert_allclose(result.class_ap, [1, 5 / 6, 0], rtol=1e-15)
    np.testing.assert_allclose(result.recall, [1, 1, 0])
    assert weighted_mean(result.class_ap, WEIGHTS) == pytest.approx(4 / 9, rel=1e-15)
    assert weighted_mean(result.class_ap, np.ones(3)) == pytest.approx(11 / 18, rel=1e-15)


def test_the_worked_example_of_d2():
    #   A: images 0 (hit), 2             1/1 over 1                     = 1
    #   B: images 1 (hit), 0; 2 ties with 0 and comes later: 1/1 over 2 = 1/2
    #   C: images 1, 2 (hit)             1/2 over 2                     = 1/4
    result = evaluate(SCORES, LABELS, WEIGHTS, k=2)
    np.testing.assert_allclose(result.top_images_ap, [1, 1 / 2, 1 / 4], rtol=1e-15)
    assert weighted_mean(result.top_images_ap, WEIGHTS) == pytest.approx(11 / 24, rel=1e-15)


def test_the_worked_example_of_d3():
    #   image 0: A (hit), B        1 * 1/1 over 1 + 3 = 1/4
    #   image 1: B (hit) ties C    2 * 1/2 over 2     = 1/2
    #   image 2: B (hit) ties A    2 * 1/2 over 2 + 3 = 1/5
    result = evaluate(SCORES, LABELS, WEIGHTS, k=2)
    assert result.image_map == pytest.approx(19 / 60, rel=1e-15)
    #   with weights of 1:         1/2, 1/2, 1/4
    assert result.image_map_unweighted == pytest.approx(5 / 12, rel=1e-15)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("k", [1, 3, 100])
def test_every_definition_equals_the_slow_reference(seed, k):
    scores, labels, _, weights = random_case(seed)
    result = evaluate(scores, labels, weights, k, block=7)
    rows = scores.tolist()

    expected = slow_reference.class_ap(rows, labels, k)
    np.testing.assert_allclose(result.class_ap, np.array(expected, np.float64), rtol=1e-12)
    expected = slow_reference.top_images_ap(rows, labels, k)
    np.testing.assert_allclose(result.top_images_ap, np.array(expected, np.float64), rtol=1e-12)
    for value, image_weights in (
        (result.image_map, weights),
        (result.image_map_unweighted, np.ones_like(weights)),
    ):
        images = slow_reference.image_ap(rows, labels, image_weights, k)
        known = [float(ap) for ap in images if ap is not None]
        expected_mean = sum(known) / len(known) if known else math.nan
        assert value == pytest.approx(expected_mean, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(40))
def test_d1_with_every_class_retrieved_equals_scikit_learn(seed):
    scores, labels, truth, weights = random_case(seed)
    scores = np.nan_to_num(scores, posinf=9, neginf=-9)  # scikit-learn takes finite scores alone
    result = evaluate(scores, labels, k=scores.shape[1])
    with_positives = np.flatnonzero(truth.any(axis=0))
    expected = [average_precision_score(truth[:, c], scores[:, c]) for c in with_positives]
    np.testing.assert_allclose(result.class_ap[with_positives], expected, rtol=1e-12)
    assert np.isnan(np.delete(result.class_ap, with_positives)).all()
    if weights[with_positives].any():
        mean = np.average(expected, weights=weights[with_positives])
        assert weighted_mean(result.class_ap, weights) == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_unweighted_d3_equals_label_ranking_average_precision(seed):
    scores, labels, truth, _ = random_case(seed)
    scores = np.nan_to_num(scores, posinf=9, neginf=-9)
    result = evaluate(scores, labels, k=scores.shape[1])
    labelled = truth.any(axis=1)  # scikit-learn gives 1 to an image without labels; we leave it out
    if not labelled.any():
        assert math.isnan(result.image_map)
        return
    expected = label_ranking_average_precision_score(truth[labelled], scores[labelled])
    assert result.image_map == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_block_sizes_change_no_bit(seed, monkeypatch):
    scores, labels, _, weights = random_case(seed)
    whole = evaluate(scores, labels, weights, k=3)
    for block in (1, 2, 5):
        assert_same_bits(evaluate(scores, labels, weights, k=3, block=block), whole)
    monkeypatch.setattr(average_precision, "_BLOCK_SCORES", 3 * scores.shape[1])
    monkeypatch.setattr(ranking, "_CLASSES_TOGETHER", 2)
    assert_same_bits(evaluate(scores, labels, weights, k=3), whole)


@pytest.mark.parametrize("seed", range(12))
def test_merged_states_equal_the_whole_in_any_order(seed):
    scores, labels, _, weights = random_case(seed)
    whole = evaluate(scores, labels, weights, k=3, block=4)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        cuts = sorted(rng.integers(0, len(scores) + 1, size=3))
        parts = []
        for start, stop in zip([0, *cuts], [*cuts, len(scores)], strict=True):
            part = Accumulator(scores.shape[1], weights, 3, first_image=start)
            part.update(scores[start:stop], as_arrays(labels[start:stop]))
            parts.append(part)
        order = rng.permutation(4)
        merged = parts[order[0]]
        for index in order[1:]:
            merged.merge(parts[index])
        assert_same_bits(merged.result(), whole)


def test_the_order_of_images_changes_no_bit_of_d1_and_d3():
    scores, labels, _, weights = random_case(1)
    order = np.random.default_rng(0).permutation(len(scores))
    shuffled = evaluate(scores[order], [labels[i] for i in order], weights, k=3)
    straight = evaluate(scores, labels, weights, k=3)
    np.testing.assert_array_equal(shuffled.class_ap, straight.class_ap)
    assert shuffled.image_map == straight.image_map


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5])
def test_a_transform_that_keeps_the_order_changes_no_bit(seed):
    scores, labels, _, weights = random_case(seed)
    levels, ranks = np.unique(scores, return_inverse=True)
    transformed = (ranks.reshape(scores.shape) * 3 - len(levels)).astype(np.float32)
    transformed[scores == -np.inf] = -np.inf
    assert_same_bits(
        evaluate(transformed, labels, weights, k=3), evaluate(scores, labels, weights, k=3)
    )


def test_d2_keeps_the_right_images_of_more_than_twice_k():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 50, size=(1000, 4)).astype(np.float32)
    truth = rng.random((1000, 4)) < 0.3
    labels = [np.flatnonzero(row).tolist() for row in truth]
    expected = slow_reference.top_images_ap(scores.tolist(), labels, 100)
    for block in (1, 64, 1000):
        result = evaluate(scores, labels, block=block)
        np.testing.assert_allclose(result.top_images_ap, np.array(expected, np.float64), rtol=1e-12)


def test_a_nan_is_named_and_leaves_the_state_as_it_was():
    accumulator = Accumulator(3)
    accumulator.update(SCORES, as_arrays(LABELS))
    before = accumulator.result()
    broken = SCORES.copy()
    broken[1, 2] = np.nan
    with pytest.raises(NotANumberError, match="image 4 for class 2") as error:
        accumulator.update(broken, as_arrays(LABELS))
    assert (error.value.image, error.value.class_id) == (4, 2)
    assert_same_bits(accumulator.result(), before)


def test_minus_infinity_is_never_retrieved():
    scores = np.array([[-np.inf, 1], [-np.inf, 0]], np.float32)
    result = evaluate(scores, [[0, 1], [0]])
    np.testing.assert_array_equal(result.class_ap, [0, 1])
    np.testing.assert_array_equal(result.recall, [0, 1])
    np.testing.assert_array_equal(result.top_images_ap, [0, 1])
    assert result.image_map == 0.25  # 1 of 2 labels in the first image, none in the second


def test_a_class_without_positives_is_left_out_and_an_image_without_labels_counts():
    result = evaluate(np.array([[2, 1], [3, 1]], np.float32), [[0], []])
    np.testing.assert_array_equal(result.class_ap, [0.5, np.nan])
    assert (result.num_images, result.num_labels, result.positives.tolist()) == (2, 1, [1, 0])
    assert result.image_map == 1.0  # of the one image that has labels
    assert weighted_mean(result.class_ap, np.array([2.0, 5.0])) == 0.5


def test_weights_of_zero_take_their_classes_out():
    result = evaluate(SCORES, LABELS, np.array([0.0, 1.0, 0.0]), k=2)
    assert weighted_mean(result.class_ap, np.array([0.0, 1.0, 0.0])) == pytest.approx(5 / 6)
    assert result.image_map == 0.5  # image 0 has no label with weight; images 1 and 2 have 1/2
    assert math.isnan(weighted_mean(result.class_ap, np.zeros(3)))


def test_no_images_give_no_number():
    result = evaluate(np.empty((0, 2), np.float32), [])
    assert np.isnan(result.class_ap).all()
    assert math.isnan(result.image_map)
    assert math.isnan(weighted_mean(result.class_ap, np.ones(2)))


def test_update_returns_the_average_precision_of_each_image():
    values = Accumulator(3, WEIGHTS, k=2).update(SCORES, as_arrays([*LABELS[:2], []]))
    np.testing.assert_allclose(values, [0.5, 0.5, np.nan])


def test_repeated_and_unsorted_labels_count_once():
    expected = evaluate(SCORES, LABELS, WEIGHTS, k=2)
    assert_same_bits(evaluate(SCORES, [[2, 0, 2], [1, 1], [2, 1]], WEIGHTS, k=2), expected)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (SCORES.astype(np.float64), LABELS, "must be float32"),
        (SCORES[:, :2], LABELS, r"shape \[3, 2\]"),
        (SCORES, LABELS[:2], r"\[2 images, 3 classes\]"),
        (SCORES, [[0], [1], [3]], r"in 0\.\.2. Received: 3"),
        (SCORES, [[0], [1], [-1]], "Received: -1"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        Accumulator(3).update(scores, as_arrays(labels))


def test_states_that_do_not_belong_together_are_not_merged():
    with pytest.raises(ValueError, match="3 and 4 classes"):
        Accumulator(3).merge(Accumulator(4))
    with pytest.raises(ValueError, match="same class weights"):
        Accumulator(3).merge(Accumulator(3, WEIGHTS))


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_the_prior_baseline_equals_evaluating_its_scores(k):
    counts = np.array([7, 2**53, 7, 0, 2**53 + 1, 7])
    rng = np.random.default_rng(0)
    truth = rng.random((50, 6)) < [0.5, 0.2, 0, 0.9, 0.3, 0.1]
    scores = np.tile(baselines.prior_scores(counts), (50, 1))
    result = evaluate(scores, [np.flatnonzero(row).tolist() for row in truth], k=k)
    prior = prior_ap(counts, result.positives, result.num_images, k)
    np.testing.assert_allclose(prior, result.class_ap, rtol=1e-12)
    # By hand: counts rank the classes 4, 1, then 0, 2 and 5 alike (the lower id first), then 3.
    retrieved = [4, 1, 0, 2, 5, 3][:k]
    expected = [truth[:, c].mean() if c in retrieved else 0 for c in range(6)]
    expected[2] = np.nan
    np.testing.assert_allclose(prior, expected, rtol=1e-12)


def assert_same_bits(result, expected):
    np.testing.assert_equal(dataclasses.asdict(result), dataclasses.asdict(expected))
