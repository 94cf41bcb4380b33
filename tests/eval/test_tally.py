"""Partial states: through a file and merged in any order, they are the whole to the last bit."""

import dataclasses
import itertools

import numpy as np
import pytest
from test_average_precision import random_case

from eval.metrics import Measured
from eval.scores import Batch
from eval.tally import Tally, TallyError


def batches_of(seed, size=4):
    scores, labels, truth, weights = random_case(seed)
    rng = np.random.default_rng(seed)
    negatives = rng.random(truth.shape) < 0.3
    batches = []
    for start in range(0, len(scores), size):
        rows = range(start, min(start + size, len(scores)))
        batches.append(
            Batch(
                [f"bild-{row}-ä" for row in rows],
                scores[rows],
                [np.array(labels[row], np.int64) for row in rows],
                [np.flatnonzero(negatives[row] & ~truth[row]) for row in rows],
                None,
            )
        )
    return batches, weights


def tally_of(batches, weights, first_image=0):
    tally = Tally(len(weights), weights, first_image, with_verified=True, with_uncut=True)
    for batch in batches:
        tally.update(batch)
    return tally


def everything(tally, weights):
    return {
        "ids": tally.image_ids(),
        "all": _comparable(Measured.of(tally.all, weights)),
        "uncut": dataclasses.asdict(tally.uncut.result()),
        "verified": _comparable(Measured.of(tally.verified, weights)),
    }


def _comparable(measured):
    found = dataclasses.asdict(measured)
    del found["ranked"]["images"]  # of equal pairs, in any order
    return found


@pytest.mark.parametrize("seed", range(8))
def test_parts_through_files_merge_to_the_whole_in_any_order(seed, tmp_path):
    batches, weights = batches_of(seed)
    expected = everything(tally_of(batches, weights), weights)
    cuts = [0, len(batches) // 3, len(batches) // 2, len(batches)]
    paths = []
    for start, stop in itertools.pairwise(cuts):
        path = tmp_path / f"{start}-{stop}.npz"
        tally_of(batches[start:stop], weights, first_image=4 * start).save(path)
        paths.append(path)
    for order in itertools.permutations(paths):
        merged = Tally.load(order[0])
        for path in order[1:]:
            merged.merge(Tally.load(path))
        np.testing.assert_equal(everything(merged, weights), expected)


def test_unknown_pairs_are_masked():
    # Three classes, two images. Image 0: label A, negative B; image 1: label B alone. Masked, A
    # ranks image 0 alone; B ranks image 1 (score 1, a hit) below image 0 (score 2): 1/2.
    batch = Batch(
        ["0", "1"],
        np.array([[1, 2, 9], [5, 1, 9]], np.float32),
        [np.array([0]), np.array([1])],
        [np.array([1]), np.array([], np.int64)],
        None,
    )
    tally = Tally(3, np.ones(3), with_verified=True)
    tally.update(batch)
    np.testing.assert_array_equal(tally.all.result().class_ap, [1 / 2, 1 / 2, np.nan])
    np.testing.assert_array_equal(tally.verified.result().class_ap, [1, 1 / 2, np.nan])


def test_tallies_that_count_other_things_are_not_merged():
    with pytest.raises(ValueError, match="counts what is verified"):
        Tally(3, np.ones(3), with_verified=True).merge(Tally(3, np.ones(3)))
    with pytest.raises(ValueError, match="same class weights"):
        Tally(3, np.ones(3)).merge(Tally(3, np.arange(3.0)))


def test_a_file_that_is_no_tally_is_refused_by_name(tmp_path):
    path = tmp_path / "part.npz"
    batches, weights = batches_of(0)
    tally_of(batches, weights).save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", x=np.zeros(1))
    for data in (b"", whole[:-40], b"x" * 100, (tmp_path / "other.npz").read_bytes()):
        path.write_bytes(data)
        with pytest.raises(TallyError, match=r"part\.npz holds no tally"):
            Tally.load(path)
