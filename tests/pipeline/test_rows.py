"""Rows as lines, hashed and packed; the hash against Python's own integers."""

import hashlib
import itertools

import numpy as np
import pytest

from pipeline import rows
from pipeline.records import Annotation, BadRow, ImageRow

SOME = [
    ImageRow("a", "a.jpg", (), "0:1"),
    ImageRow("b", "", (Annotation("cat"), Annotation("dog", 0.7), Annotation("cow", 0.0)), "0:2"),
    ImageRow("ä ö", "x/y.jpg", (Annotation("/m/04", 1.0, "machine"),), "1:3", "md5:0", 90, "eval"),
    ImageRow("d", "d.jpg", (), "0:4", split="train"),
    BadRow("x,y", "2 cells", "0:5"),
]  # fmt: skip


@pytest.mark.parametrize("row", SOME)
def test_a_line_reads_back_the_same(row):
    line = rows.encode(row)
    assert line.count(b"\n") == 1
    assert rows.decode(line.decode()) == row


def test_a_bad_row_of_several_lines_becomes_one_line():
    assert rows.decode(rows.encode(BadRow("a\nb\tc", "d\x1fe", "0:1")).decode()) == BadRow(
        "a b c", "d e", "0:1"
    )


def test_packs_hold_every_row_once_under_its_group():
    batch = rows.Batch.of(SOME * 3)
    groups = np.arange(len(SOME) * 3) % 4
    packs = dict(rows.packs(batch.lines, groups))
    assert sorted(packs) == [0, 1, 2, 3]
    for group, pack in packs.items():
        expected = [row for row, its in zip(SOME * 3, groups, strict=True) if its == group]
        assert list(rows.unpack(pack)) == expected


def test_nothing_makes_no_pack():
    assert list(rows.packs(rows.Batch.of([]).lines, np.zeros(0, np.int64))) == []
    assert list(rows.batched([])) == []


def test_the_hashes_are_a_keyed_blake2b_of_the_id():
    digest = hashlib.blake2b(b"a.jpg", digest_size=16, key=rows.SALT.encode()).digest()
    found = rows.hashes([b"a.jpg"])
    assert int(found.order[0]) == int.from_bytes(digest[:8], "big")
    assert int(found.split[0]) == int.from_bytes(digest[8:], "big")


@pytest.mark.parametrize("num_groups", [1, 3, 16, 99_999, 2**31 - 1])
def test_groups_are_the_high_half_of_the_product(num_groups):
    hashed = rows.hashes(str(index).encode() for index in range(1000)).order
    edges = np.array([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1], np.uint64)
    hashed = np.concatenate([hashed, edges])
    expected = [int(key) * num_groups >> 64 for key in hashed]
    assert rows.groups_of(hashed, num_groups).tolist() == expected


def test_shards_are_even_and_cut_the_order_into_runs():
    hashed = np.sort(rows.hashes(f"{index}.jpg".encode() for index in range(20_000)).order)
    shards = rows.groups_of(hashed, 16).tolist()
    assert shards == sorted(shards)
    lengths = [len(list(group)) for _, group in itertools.groupby(shards)]
    assert len(lengths) == 16
    assert max(lengths) < 1.15 * 20_000 / 16


def test_batches_are_cut(monkeypatch):
    monkeypatch.setattr(rows, "BATCH_ROWS", 4)
    batches = list(rows.batched(SOME * 2))
    assert [len(batch.keys) for batch in batches] == [4, 4, 2]
    assert batches[0].splits == ["", "", "eval", "train"]
    assert batches[0].keys[2] == "ä ö".encode()
