"""Damaged records are found, left out, counted and, beyond a limit, an error with their place."""

import hashlib
import io
from pathlib import Path

import pytest
import tensorflow as tf

from model.damage import DamagedRecords, salvage
from model.run_folder import TrainingError
from pipeline import tfrecord

RECORDS = [bytes([65 + i]) * (10 + i) for i in range(5)]  # frames of 26, 27, 28, 29 and 30 bytes
STARTS = [0, 26, 53, 81, 110]
END = 140


def _shard(*flipped):
    data = bytearray(b"".join(tfrecord.frame(record) for record in RECORDS))
    for position in flipped:
        data[position] ^= 0x40
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "whole", "damages"),
    [
        (_shard(), [0, 1, 2, 3, 4], []),
        (_shard(53 + 12), [0, 1, 3, 4], [(53, 81)]),  # in the third record
        (_shard(81 - 1), [0, 1, 3, 4], [(53, 81)]),  # in its checksum
        (_shard(53), [0, 1, 3, 4], [(53, 81)]),  # in its length
        (_shard(53 + 7), [0, 1, 3, 4], [(53, 81)]),  # in its length: more than the file holds
        (_shard(26, 53 + 12), [0, 3, 4], [(26, 81)]),  # a length, then a record: no place between
        (_shard(0, 110), [1, 2, 3], [(0, 26), (110, END)]),
        (_shard()[: END - 3], [0, 1, 2, 3], [(110, END - 3)]),  # cut off
        (b"no shard at all, of more than sixteen bytes", [], [(0, 43)]),
    ],
)
def test_whole_records_are_salvaged_from_around_the_damage(data, whole, damages):
    assert salvage(data) == ([RECORDS[i] for i in whole], damages)


def _damaged(folder, limit=3, first=None, second=None):
    paths = []
    for name, data in (("one", first or _shard()), ("two", second or _shard(53))):
        path = folder / name
        path.write_bytes(data)
        paths.append(str(path))
    return paths, DamagedRecords(folder / "run", paths, [5, 5], limit)


def test_a_mended_copy_stands_in_for_the_shard_and_a_restart_knows_it(tmp_path):
    (tmp_path / "run").mkdir()
    paths, damaged = _damaged(tmp_path)
    assert damaged.shard_paths() == paths
    (said,) = damaged.mend(53)
    assert said == f"Left out 1 damaged of 5 records of {paths[1]} at byte 53"
    assert damaged.mend(53) == []  # the second worker that meets it
    sha256 = hashlib.sha256(_shard(53)).hexdigest()
    mended = tmp_path / "run" / "mended" / f"two.{sha256[:16]}"
    assert damaged.shard_paths() == [paths[0], str(mended)]
    assert list(tfrecord.read(io.BytesIO(mended.read_bytes()))) == [
        RECORDS[i] for i in (0, 1, 3, 4)
    ]
    again = DamagedRecords(tmp_path / "run", paths, [5, 5], 3)
    assert again.count == damaged.count == 1
    assert again.shard_paths() == damaged.shard_paths()
    listed = (tmp_path / "run" / "damaged_records.tsv").read_text()
    assert listed == f"shard\tlost\tbytes\tsha256\n{paths[1]}\t1\t53-81\t{sha256}\n"


def test_a_shard_that_is_written_anew_is_read_itself_and_counts_nothing(tmp_path):
    (tmp_path / "run").mkdir()
    paths, damaged = _damaged(tmp_path, first=_shard(26))
    damaged.mend(26)
    damaged.mend(53)
    Path(paths[1]).write_bytes(_shard())
    again = DamagedRecords(tmp_path / "run", paths, [5, 5], 3)
    assert again.shard_paths() == [damaged.shard_paths()[0], paths[1]]
    assert again.count == 1
    Path(paths[1]).write_bytes(_shard(110))  # and damaged once more, elsewhere
    assert again.mend(110) == [f"Left out 1 damaged of 5 records of {paths[1]} at byte 110"]
    third = DamagedRecords(tmp_path / "run", paths, [5, 5], 3)
    assert third.shard_paths() == again.shard_paths()
    assert third.count == 2
    with open(third.shard_paths()[1], "rb") as file:
        assert list(tfrecord.read(file)) == RECORDS[:4]


def test_a_shard_that_is_gone_is_not_replaced_by_its_mended_copy(tmp_path):
    (tmp_path / "run").mkdir()
    paths, damaged = _damaged(tmp_path)
    damaged.mend(53)
    Path(paths[1]).unlink()
    assert DamagedRecords(tmp_path / "run", paths, [5, 5], 3).shard_paths() == paths


def test_a_list_that_a_full_disk_cut_off_anywhere_is_read_up_to_there_and_written_again(tmp_path):
    (tmp_path / "run").mkdir()
    paths, damaged = _damaged(tmp_path)
    damaged.mend(53)
    listed = tmp_path / "run" / "damaged_records.tsv"
    whole = listed.read_text()
    for end in range(len(whole) - 1):
        listed.write_text(whole[:end])
        again = DamagedRecords(tmp_path / "run", paths, [5, 5], 3)
        assert (again.count, again.shard_paths()) == (0, paths)
    again.mend(53)
    assert listed.read_text() == whole


@pytest.mark.parametrize(("position", "offset"), [(53, 53), (53 + 12, 65)])  # in length, record
def test_offsets_are_those_that_tensorflow_tells(tmp_path, position, offset):
    (tmp_path / "run").mkdir()
    paths, damaged = _damaged(tmp_path, second=_shard(position))
    with pytest.raises(tf.errors.DataLossError, match=f"record at {offset}"):
        list(tf.data.TFRecordDataset(paths[1]))
    assert "at byte 53" in damaged.mend(offset)[0]


def test_records_behind_a_damaged_length_count_as_what_the_shard_should_hold(tmp_path):
    (tmp_path / "run").mkdir()
    _, damaged = _damaged(tmp_path, second=_shard()[:60])  # two records and a bit
    damaged.mend(53)
    assert damaged.count == 3


def test_beyond_the_limit_training_ends_with_file_and_offset(tmp_path):
    (tmp_path / "run").mkdir()
    paths, damaged = _damaged(tmp_path, limit=1, first=_shard(26))
    damaged.mend(53)
    with pytest.raises(TrainingError, match=rf"{paths[0]} at byte 26, and 1 before; .* is 1\."):
        damaged.mend(26)


def test_damage_that_is_not_there_on_a_second_reading_is_said(tmp_path):
    (tmp_path / "run").mkdir()
    _, damaged = _damaged(tmp_path)
    with pytest.raises(TrainingError, match="byte 26, and none of the 2 shards"):
        damaged.mend(26)
