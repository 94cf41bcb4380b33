import numpy as np
import pytest

from pipeline import rows
from pipeline.recipe import Selection, is_training, shares

HASHES = rows.hashes(str(index).encode() for index in range(20_000)).split


def test_shares_part_all_images_between_them():
    selections = shares((("train", 0.9), ("eval", 0.08), ("test", 0.02)))
    taken = np.stack([s.may_take(HASHES) for s in selections.values()])
    assert (taken.sum(axis=0) == 1).all()
    assert taken.mean(axis=1) == pytest.approx([0.9, 0.08, 0.02], abs=0.01)
    assert [s.share for s in selections.values()] == pytest.approx([0.9, 0.08, 0.02])


def test_shares_below_one_leave_the_rest_out():
    (selection,) = shares((("train", 0.1),)).values()
    assert selection.may_take(HASHES).mean() == pytest.approx(0.1, abs=0.01)


def test_the_shards_of_a_share_are_even():
    eval_split = shares((("train", 0.9), ("eval", 0.1)))["eval"]
    hashed = rows.hashes(str(index).encode() for index in range(20_000))
    order = hashed.order[eval_split.may_take(hashed.split)]
    counts = np.bincount(rows.groups_of(order, 4), minlength=4)
    assert counts.min() > 0.8 * counts.mean()


def test_a_column_decides_once_all_rows_are_known():
    train = Selection(cell="train", takes_strays=False)
    evaluation = Selection(cell="eval", takes_strays=True)
    for cell, takers in (
        ("train", (True, False)), ("eval", (False, True)), ("", (False, True)),
        ("eval,train", (False, True)),
    ):  # fmt: skip
        assert (train.takes(False, cell), evaluation.takes(False, cell)) == takers
    assert train.may_take(HASHES).all()


def test_what_is_drawn_is_in_no_other_split():
    drawn = Selection(drawn_end=1 << 63, is_drawn=True)
    assert drawn.takes(True, "train")
    assert not drawn.takes(False, "train")
    assert not Selection(drawn_end=1 << 63).takes(True, "")
    assert not Selection(cell="train", drawn_end=1 << 63).takes(True, "train")


def test_training_splits_are_known_by_their_names():
    assert is_training("train")
    assert is_training("train_2020")
    assert not is_training("trainable")
    assert not is_training("eval")
