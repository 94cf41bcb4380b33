import json
import shutil

import pytest

from pipeline import schema, tfrecord, verify


@pytest.fixture
def dataset(workplace):
    workplace.write_labels(workplace.add_images(12))
    assert workplace.run("--num_shards=2") == 0
    return workplace.output


def shard(dataset, number=0):
    return dataset / f"images-train.tfrecord-0000{number}-of-00002"


def failure(dataset, capsys):
    capsys.readouterr()
    assert verify.main([str(dataset)]) == 2
    return capsys.readouterr().err


def test_a_sound_dataset_passes(dataset, capsys):
    assert verify.main([str(dataset), "--split=train"]) == 0
    assert "split 'train' is sound: 12 examples in 2 shards" in capsys.readouterr().out


def test_a_flipped_byte_is_named_by_file_and_record(dataset, capsys):
    data = bytearray(shard(dataset, 1).read_bytes())
    first_length = int.from_bytes(data[:8], "little") + 16
    data[first_length + 100] ^= 1
    shard(dataset, 1).write_bytes(data)
    error = failure(dataset, capsys)
    assert f"{shard(dataset, 1)}: record 1: the checksum of a record is wrong" in error


def test_a_cut_shard_is_noticed(dataset, capsys):
    shard(dataset).write_bytes(shard(dataset).read_bytes()[:-5])
    assert "the file ends inside a record" in failure(dataset, capsys)


def test_a_missing_record_is_noticed(dataset, capsys):
    with shard(dataset).open("rb") as stream:
        records = list(tfrecord.read(stream))
    shard(dataset).write_bytes(b"".join(map(tfrecord.frame, records[:-1])))
    assert f"{len(records) - 1} records; {len(records)} by its commit" in failure(dataset, capsys)


def test_a_label_id_out_of_range_is_noticed(dataset, capsys):
    with shard(dataset).open("rb") as stream:
        records = list(tfrecord.read(stream))
    example = schema.decode(records[0])
    labels = (99, *example.labels[1:])[: len(example.labels)]
    records[0] = schema.encode(example._replace(labels=tuple(sorted(labels))))
    shard(dataset).write_bytes(b"".join(map(tfrecord.frame, records)))
    assert "record 0 (" in failure(dataset, capsys)
    assert "with 4 classes" in failure(dataset, capsys)


def test_a_replaced_image_is_noticed_by_the_shards_checksum(dataset, capsys):
    with shard(dataset).open("rb") as stream:
        records = list(tfrecord.read(stream))
    example = schema.decode(records[1])
    other = schema.decode(records[0]).image
    records[1] = schema.encode(example._replace(image=other))
    shard(dataset).write_bytes(b"".join(map(tfrecord.frame, records)))
    assert "sha256 is not the one in its commit" in failure(dataset, capsys)


def test_wrong_class_counts_are_noticed(dataset, capsys):
    path = dataset / "train.class_counts.tsv"
    path.write_text(path.read_text().replace("cat\t4", "cat\t5"))
    assert "5 examples of class 'cat', but the shards hold 4" in failure(dataset, capsys)


def test_a_missing_commit_is_noticed(dataset, capsys):
    (dataset / "commits/train/00001-of-00002.json").unlink()
    assert "commit is missing or damaged" in failure(dataset, capsys)


def test_what_is_no_dataset_is_said_so(tmp_path, capsys):
    assert "no dataset folder" in failure(tmp_path / "nowhere", capsys)
    assert "is not a dataset" in failure(tmp_path, capsys)


def test_another_format_version_is_refused(dataset, capsys):
    marker = dataset / "train.completed.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"format_version": 99}))
    assert "format version 99" in failure(dataset, capsys)


def test_an_unknown_split_is_answered_with_those_that_are_there(dataset, capsys):
    assert verify.main([str(dataset), "--split=test"]) == 2
    assert "no split 'test'. Completed splits: train" in capsys.readouterr().err


def test_every_fault_says_what_to_do(dataset, workplace, capsys):
    shard(dataset).write_bytes(shard(dataset).read_bytes()[:-5])
    error = failure(dataset, capsys)
    assert "Delete this file, if it is there, and start the beam_runner.py command" in error
    shard(dataset).unlink()
    assert workplace.run("--num_shards=2") == 0
    assert verify.main([str(dataset)]) == 0


@pytest.mark.parametrize("name", ["images-train.tfrecord-00001-of-00002", "train.dead_letters.csv"])
def test_a_missing_file_is_noticed_and_the_same_command_writes_it(dataset, workplace, capsys, name):
    (dataset / name).unlink()
    error = failure(dataset, capsys)
    assert name in error
    assert "start the beam_runner.py command" in error
    assert workplace.run("--num_shards=2") == 0
    assert verify.main([str(dataset)]) == 0


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "labels.labels.txt"])
def test_a_tfds_file_that_says_something_else_is_noticed(dataset, workplace, capsys, name):
    path = dataset / name
    path.write_text(path.read_text().replace("a", "b", 1))
    assert f"{path}: missing, or not what the completed splits make it" in failure(dataset, capsys)
    path.unlink()
    assert f"{path}: missing" in failure(dataset, capsys)
    assert workplace.run("--num_shards=2") == 0
    assert verify.main([str(dataset)]) == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"split": "train"}'])
def test_a_damaged_marker_is_noticed(dataset, capsys, text):
    (dataset / "train.completed.json").write_text(text)
    assert "train.completed.json is damaged: delete this file" in failure(dataset, capsys)


def test_a_number_of_examples_that_is_not_the_sum_of_the_shards_is_noticed(dataset, capsys):
    marker = dataset / "train.completed.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"num_examples": 13}))
    assert "13 examples, but 12 in the lengths of its shards" in failure(dataset, capsys)


def test_a_folder_in_place_of_a_shard_is_noticed(dataset, capsys):
    shard(dataset).unlink()
    shard(dataset).mkdir()
    assert f"{shard(dataset)}: " in failure(dataset, capsys)


def test_a_shard_of_another_number_of_shards_is_noticed(dataset, capsys):
    stray = dataset / "images-train.tfrecord-00000-of-00003"
    shutil.copy(shard(dataset), stray)
    assert f"{stray}: none of the 2 shards of the split" in failure(dataset, capsys)
