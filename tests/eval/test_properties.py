"""What must hold for any scores and labels, drawn by hypothesis; and equality with trec_eval."""

import itertools
import math

import numpy as np
import pytrec_eval
import slow_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_average_precision import as_arrays, assert_same_bits, evaluate

from eval.average_precision import Accumulator, weighted_mean

SCORES = st.one_of(
    st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1.0, math.inf]),  # ties and ends
    st.floats(width=32, allow_nan=False),
)


@st.composite
def cases(draw):
    """(scores, labels, class weights, k): images and classes may be none of anything."""
    num_images, num_classes = draw(st.integers(0, 8)), draw(st.integers(1, 7))
    scores = draw(arrays.arrays(np.float32, (num_images, num_classes), elements=SCORES))
    truth = draw(arrays.arrays(np.bool_, (num_images, num_classes)))
    weights = draw(arrays.arrays(np.float64, num_classes, elements=st.integers(0, 3)))
    labels = [np.flatnonzero(row).tolist() for row in truth]
    return scores, labels, weights, draw(st.integers(1, 9))


PROFILE = settings(deadline=None, max_examples=100, derandomize=True, database=None)


@PROFILE
@given(cases())
def test_every_definition_equals_the_slow_reference(case):
    scores, labels, weights, k = case
    result = evaluate(scores, labels, weights, k)
    if not len(scores):
        assert np.isnan(result.class_ap).all()
        return
    rows = scores.tolist()
    for found, expected in (
        (result.class_ap, slow_reference.class_ap(rows, labels, k)),
        (result.top_images_ap, slow_reference.top_images_ap(rows, labels, k)),
    ):
        np.testing.assert_allclose(found, np.array(expected, np.float64), rtol=1e-12)
    known = [ap for ap in slow_reference.image_ap(rows, labels, weights, k) if ap is not None]
    expected = float(sum(known) / len(known)) if known else math.nan
    np.testing.assert_allclose(result.image_map, expected, rtol=1e-12)


@PROFILE
@given(cases(), st.randoms(use_true_random=False))
def test_images_in_any_order_in_any_blocks_and_parts_give_the_same_bits(case, random):
    scores, labels, weights, k = case
    whole = evaluate(scores, labels, weights, k)
    assert_same_bits(evaluate(scores, labels, weights, k, block=random.randint(1, 9)), whole)
    borders = sorted([0, len(scores), random.randint(0, len(scores))])
    parts = []
    for start, stop in itertools.pairwise(borders):
        part = Accumulator(scores.shape[1], weights, k, first_image=start)
        part.update(scores[start:stop], as_arrays(labels[start:stop]))
        copied = Accumulator(scores.shape[1], weights, k)
        copied.restore(part.state())
        parts.append(copied)
    random.shuffle(parts)
    parts[0].merge(parts[1])
    assert_same_bits(parts[0].result(), whole)
    order = random.sample(range(len(scores)), len(scores))
    shuffled = evaluate(scores[order], [labels[image] for image in order], weights, k)
    np.testing.assert_array_equal(shuffled.class_ap, whole.class_ap)  # in D2 the order breaks ties
    np.testing.assert_equal(shuffled.image_map, whole.image_map)
    np.testing.assert_equal(vars(shuffled.top), vars(whole.top))


@PROFILE
@given(cases())
def test_only_the_order_of_scores_counts(case):
    scores, labels, weights, k = case
    levels = np.unique(scores)
    ranks = np.searchsorted(levels, scores).astype(np.float32) - 2
    ranks[scores == -np.inf] = -np.inf
    assert_same_bits(evaluate(ranks, labels, weights, k), evaluate(scores, labels, weights, k))


@PROFILE
@given(cases())
def test_averages_lie_between_none_and_all(case):
    scores, labels, weights, k = case
    result = evaluate(scores, labels, weights, k)
    mean = weighted_mean(result.class_ap, weights)
    assert math.isnan(mean) == (not weights[result.positives > 0].any())
    for value in (mean, result.image_map, result.top.gap, *result.top.recall.values()):
        assert math.isnan(value) or 0 <= value <= 1
    perfect = np.full_like(scores, -np.inf)
    for row, ids in enumerate(labels):
        perfect[row, ids] = 1
    best = weighted_mean(evaluate(perfect, labels, weights, k=9).class_ap, weights)
    assert math.isnan(best) or best == 1


@PROFILE
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 20), st.integers(1, 20))
def test_unweighted_d3_is_trec_evals_map_where_no_scores_tie(seed, num_images, num_classes, k):
    # trec_eval normalises by all of an image's labels, D3 by no more than k of them; of ties it
    # takes the greater name first, D3 gives them one threshold.
    rng = np.random.default_rng(seed)
    scores = rng.permutation(num_images * num_classes).reshape(num_images, num_classes)
    truth = rng.random(scores.shape) < 0.3
    truth[np.arange(num_images), rng.integers(0, num_classes, num_images)] = True
    labels = [np.flatnonzero(row).tolist() for row in truth]
    relevant = {f"i{i}": {f"c{c}": 1 for c in ids} for i, ids in enumerate(labels)}
    run = {
        f"i{i}": {f"c{c}": float(score) for c, score in enumerate(row)}
        for i, row in enumerate(scores)
    }
    measures = {f"map_cut.{k}", f"recall.{k}", f"P.{k}", f"success.{k}"}
    trec = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(run)
    image_ap = Accumulator(num_classes, k=k).update(scores.astype(np.float32), as_arrays(labels))
    expected = [
        trec[f"i{i}"][f"map_cut_{k}"] * len(ids) / min(len(ids), k) for i, ids in enumerate(labels)
    ]
    np.testing.assert_allclose(image_ap, expected, rtol=1e-6)  # trec_eval gives float32


def test_the_first_predictions_equal_trec_evals_recall_and_precision():
    rng = np.random.default_rng(0)
    scores = rng.permutation(60 * 150).reshape(60, 150)
    truth = rng.random(scores.shape) < 0.05
    truth[:, 7] = True
    labels = [np.flatnonzero(row).tolist() for row in truth]
    relevant = {f"i{i}": {f"c{c}": 1 for c in ids} for i, ids in enumerate(labels)}
    run = {
        f"i{i}": {f"c{c}": float(score) for c, score in enumerate(row)}
        for i, row in enumerate(scores)
    }
    measures = {"recall", "P", "success.1,5,10"}
    trec = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(run)
    top = evaluate(scores.astype(np.float32), labels).top

    def mean(measure):
        return np.mean([image[measure] for image in trec.values()])

    for k in (5, 10, 100):
        np.testing.assert_allclose(top.recall[k], mean(f"recall_{k}"), rtol=1e-6)
        np.testing.assert_allclose(top.precision[k], mean(f"P_{k}"), rtol=1e-6)
    for k in (1, 5, 10):
        np.testing.assert_allclose(top.hit[k], mean(f"success_{k}"), rtol=1e-6)
