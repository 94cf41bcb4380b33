import gzip
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc

import pytest

import beam_runner
from pipeline import metadata, rows, schema, tfrecord
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources.source import SourceError, SourceOptions
from pipeline.sources.tfrecord import TFRecord


def feature(*values):
    tf = pytest.importorskip("tensorflow")
    if values and all(isinstance(value, int) for value in values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    if values and all(isinstance(value, float) for value in values):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))


def example(**features):
    """A record as TensorFlow makes it; `__` in a name stands for `/`, a value for a list of it."""
    tf = pytest.importorskip("tensorflow")
    found = {
        name.replace("__", "/"): feature(*(values if isinstance(values, list) else [values]))
        for name, values in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString()


def write(path, *records):
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def source(images, **options):
    return TFRecord(SourceOptions("tfrecord", str(images), **options))


def read(images, unpacked_dir="unpacked", **options):
    """All rows, in the order of the files, after a trip to a worker."""
    found = source(images, **options)
    parts = found.inventory().parts
    found = pickle.loads(pickle.dumps(found))  # noqa: S301
    return [
        rows.decode(line.decode())
        for part in parts
        for batch in found.batches(part, str(unpacked_dir))
        for line in batch.lines.to_pylist()
    ]


def image_bytes(row):
    path, _, place = row.uri.rpartition("#")
    offset, length = map(int, place.split("+"))
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def labels(*names):
    return tuple(map(Annotation, names))


def test_rows_refer_to_the_images_inside_the_files_of_another_project(tmp_path):
    path = write(
        tmp_path / "train-00000-of-00001",
        example(image__encoded=b"one" * 999, image__filename="a.jpg", image__class__label=7),
        example(image__encoded=b"two", image__filename="b.jpg", image__class__label=300),
    )
    first, second = read(path)
    assert (first.image_id, first.annotations, first.place) == ("a.jpg", labels("7"), "0:1")
    assert (second.image_id, second.annotations, second.place) == ("b.jpg", labels("300"), "0:2")
    assert (image_bytes(first), image_bytes(second)) == (b"one" * 999, b"two")
    assert source(path).vocabulary() is None


def test_labels_are_several_texts_or_one_with_delimiters_or_none(tmp_path):
    path = write(
        tmp_path / "x.tfrecord",
        example(image=b"1", id="a", labels=["cat", " animal "]),
        example(image=b"1", id="b", labels="cat|animal|"),
        example(image=b"1", id="c", labels=[]),
        example(image=b"1", id="d"),
    )
    assert [row.annotations for row in read(path)] == [labels("cat", "animal")] * 2 + [()] * 2


def test_three_states_come_from_confidences_and_sources_beside_the_labels(tmp_path):
    record = example(
        image=b"1",
        id=12,
        objects__label=["cat", "dog", "cow", "elk"],
        objects__confidence=[0.7, 0.0, 0.0, 1.0],
        objects__label_source=["machine", "verification", "machine", ""],
    )
    (row,) = read(write(tmp_path / "x.tfrecord", record))
    assert row.image_id == "12"
    assert row.annotations == (
        Annotation("cat", 0.7, "machine"),
        Annotation("dog", 0.0, "verification"),  # the cow: a machine verifies no negative
        Annotation("elk", 1.0, ""),
    )


def test_flags_name_the_features_and_one_confidence_counts_for_all_labels(tmp_path):
    record = example(image=b"no", data=b"yes", key="k", tags=["a", "b"], sure=0.5, who="me", s="up")
    (row,) = read(
        write(tmp_path / "x.tfrecord", record),
        image_column="data",
        labels_column="tags",
        confidence_column="sure",
        label_source_column="who",
        split_column="s",
    )
    assert image_bytes(row) == b"yes"
    assert row[:1] + row[2:3] == ("k", (Annotation("a", 0.5, "me"), Annotation("b", 0.5, "me")))
    assert row.split == "up"


def test_without_an_id_it_is_the_name_of_the_file_and_the_number_of_the_record(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x.tfrecord", *[example(image=b"1", label="cat")] * 2)
    images = f"{tmp_path}/a/*.tfrecord, {tmp_path}/b/*.tfrecord"
    ids = [row.image_id for row in read(images)]
    assert ids == ["a/x.tfrecord:1", "a/x.tfrecord:2", "b/x.tfrecord:1", "b/x.tfrecord:2"]
    assert read(tmp_path / "a/x.tfrecord")[0].image_id == "x.tfrecord:1"


GOOD = {"image": b"1", "id": "a", "labels": ["cat"], "confidences": [1.0], "label_sources": ["me"]}


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"image": None}, "no feature 'image'"),
        ({"image": [b"1", b"2"]}, "2 images in 'image'"),
        ({"image": []}, "0 images in 'image'"),
        ({"image": 3}, "no bytes but int64"),
        ({"id": None}, "no image id in 'id'"),
        ({"id": " "}, "no image id in 'id'"),
        ({"id": ["a", "b"]}, "2 values in 'id'"),
        ({"id": "a\x1fb"}, "a control character"),
        ({"id": b"\xff"}, "'id' is not UTF-8"),
        ({"labels": ["c\nt"]}, "a control character"),
        ({"labels": [b"\xff"]}, "'labels' is not UTF-8"),
        ({"labels": ["cat", ""], "confidences": [1.0, 1.0]}, "an empty label in 'labels'"),
        ({"labels": [0.5]}, "'labels' holds floats"),
        ({"labels": ["cat"] * 3, "confidences": [1.0, 1.0]}, "2 values in 'confidences' for 3"),
        ({"confidences": None}, "0 values in 'confidences' for 1"),
        ({"confidences": [1.5]}, "a confidence is from 0 to 1: 'confidences' has 1.5"),
        ({"confidences": [float("nan")]}, "'confidences' has nan"),
        ({"confidences": ["high"]}, "the confidences 'confidences' are bytes"),
        ({"label_sources": ["m\x1de"]}, "a control character"),
        ({"labels": ["x" * (1 << 20)]}, "'labels' takes 1048580 bytes"),
    ],
)
def test_a_record_that_gives_no_image_is_a_bad_row_among_good_ones(tmp_path, changes, detail):
    bad = {name: values for name, values in {**GOOD, **changes}.items() if values is not None}
    path = write(tmp_path / "x.tfrecord", example(**GOOD), example(**bad), example(**GOOD))
    first, second, third = read(path)
    assert isinstance(first, ImageRow)
    assert isinstance(third, ImageRow)
    assert isinstance(second, BadRow)
    assert detail in second.detail
    assert (second.text, second.place) == ("x.tfrecord:2", "0:2")


def test_a_record_that_is_no_example_is_a_bad_row(tmp_path):
    path = write(tmp_path / "x.tfrecord", example(**GOOD), b"\xff" * 20, b"", b"\x00\x00")
    details = [row.detail for row in read(path)[1:]]
    assert details == [
        "a number without an end at byte 0",
        "no feature 'image', but none",
        "field number 0 at byte 1",
    ]


def damaged(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_a_record_with_a_wrong_checksum_is_lost_alone(tmp_path):
    record = example(**GOOD)
    path = write(tmp_path / "x.tfrecord", record, record, record)
    damaged(path, 12 + len(record) + 4 + 12 + 5)
    first, second, third = read(path)
    assert isinstance(first, ImageRow)
    assert second == BadRow("x.tfrecord:2", "the checksum of a record is wrong", "0:2")
    assert image_bytes(third) == b"1"


def test_behind_a_wrong_length_the_rest_of_the_file_is_lost(tmp_path):
    record = example(**GOOD)
    frame = 12 + len(record) + 4
    path = write(tmp_path / "x.tfrecord", record, record, record)
    damaged(path, frame + 3)
    first, *lost = read(path)
    assert isinstance(first, ImageRow)
    rest = f"{2 * frame} bytes from byte {frame} on are lost; lost behind record 1, about: 2"
    detail = f"the checksum of a record's length is wrong: {rest}"
    assert lost == [BadRow(f"x.tfrecord:{n}", detail, f"0:{n}") for n in (2, 3)]


@pytest.mark.parametrize("kept", [5, 20])
def test_a_file_that_was_cut_off_keeps_its_whole_records(tmp_path, kept):
    record = example(**GOOD)
    path = write(tmp_path / "x.tfrecord", record, record)
    path.write_bytes(path.read_bytes()[: 12 + len(record) + 4 + kept])
    first, second = read(path)
    assert isinstance(first, ImageRow)
    assert f": {kept} bytes from byte" in second.detail


def test_compressed_files_are_unpacked_once(tmp_path):
    plain = write(tmp_path / "x.tfrecord", example(**GOOD), example(**{**GOOD, "image": b"22"}))
    path = tmp_path / "x.tfrecord.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    unpacked_dir = tmp_path / "unpacked"
    found = read(path, unpacked_dir)
    assert [image_bytes(row) for row in found] == [b"1", b"22"]
    assert [row.place for row in found] == ["0:1", "0:2"]
    (unpacked,) = unpacked_dir.iterdir()
    inode = unpacked.stat().st_ino
    assert read(path, unpacked_dir) == found
    assert [(file, file.stat().st_ino) for file in unpacked_dir.iterdir()] == [(unpacked, inode)]


def test_the_damage_of_a_compressed_file_is_a_bad_row_and_what_came_before_is_read(tmp_path):
    record = example(**GOOD)
    path = tmp_path / "x.tfrecord.gz"
    path.write_bytes(gzip.compress(tfrecord.frame(record) * 2)[:-4])  # the frames are whole
    for _ in range(2):  # unpacked, and found unpacked
        first, second, third = read(path, tmp_path / "unpacked")
        assert (first.image_id, second.image_id) == ("a", "a")
        assert third.text == "x.tfrecord.gz:3"
        assert "the compressed data is damaged" in third.detail


def test_what_cannot_be_read_at_all_says_why_and_what_to_do(tmp_path):
    path = write(tmp_path / "x.tfrecord", example(picture=b"1", id="a", tag=1))
    (tmp_path / "text").write_text("image_path,labels\n" * 9)
    (tmp_path / "empty").write_bytes(b"")
    for images, options, message in [
        (path, {}, "no feature for the labels: name it with --labels_column. Features found: id"),
        (path, {}, "picture (bytes), tag (int64); usual names: labels, label"),
        (path, {"labels_column": "tag"}, "no feature for the image: name it with --image_column"),
        (path, {"labels_column": "tags"}, "no feature 'tags' (--labels_column). Features found"),
        (path, {"source_split": "train"}, "--source_split=train: "),
        (tmp_path / "none*", {}, "no file matches"),
        (tmp_path, {}, "is a folder"),
        (tmp_path / "text", {}, "are these TFRecord files?"),
        (tmp_path / "empty", {}, "are these TFRecord files?"),
    ]:  # fmt: skip
        with pytest.raises(SourceError) as caught:
            source(images, **options).inventory()
        assert message in str(caught.value)


def test_records_are_counted_or_closely_estimated(tmp_path):
    write(tmp_path / "a", *[example(**GOOD)] * 3)
    assert source(tmp_path / "a").inventory().num_rows == 3
    rng = random.Random(0)
    records = [example(**{**GOOD, "image": rng.randbytes(rng.randrange(500, 1500))})] * 400
    write(tmp_path / "b", *records)
    assert source(tmp_path / "b").inventory().num_images == pytest.approx(400, rel=0.1)


def test_the_digest_tells_contents_apart_and_not_places(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x", example(**GOOD))
        write(tmp_path / folder / "y", example(**GOOD))
    digest = source(tmp_path / "here/*").inventory().digest
    assert source(tmp_path / "there/*").inventory().digest == digest
    assert source(tmp_path / "here/*", label_delimiter=",").inventory().digest != digest
    write(tmp_path / "there" / "y", example(**{**GOOD, "image": b"333"}))
    assert source(tmp_path / "there/*").inventory().digest != digest


def test_relative_paths_are_referred_to_from_everywhere(tmp_path, monkeypatch):
    write(tmp_path / "x.tfrecord", example(**GOOD))
    monkeypatch.chdir(tmp_path)
    (row,) = read("*.tfrecord")
    monkeypatch.chdir("/")
    assert image_bytes(row) == b"1"


CLASSES = ("animal", "cat", "dog")


def own_dataset(folder):
    """Two splits of a dataset as beam_runner.py writes them, of which `eval` is not completed."""
    folder.mkdir()
    text = "class\tname\n" + "".join(f"{key}\t{key}\n" for key in CLASSES)
    (folder / metadata.CLASSES_FILE).write_text(text)
    for split in ("train", "test", "eval"):
        record = schema.encode(
            schema.Example(
                image_id=f"{split}/1",
                image=b"jpeg of " + split.encode(),
                labels=(0, 1),
                confidences=(0.8, 1.0),
                label_sources=("hierarchy", "verification"),
                negatives=(2,),
                negative_sources=("crowdsource-verification",),
            )
        )
        empty = schema.encode(schema.Example(f"{split}/2", b"", (), (), (), (), ()))
        for shard, records in enumerate(([record, empty], [])):
            path = folder / metadata.shard_file(split, shard, 2)
            path.write_bytes(b"".join(map(tfrecord.frame, records)))
        marker = {
            "split": split,
            "num_examples": 2,
            "shard_lengths": [2, 0],
            "fingerprint": f"of {split}",
            "format_version": schema.FORMAT_VERSION,
        }
        if split != "eval":
            (folder / metadata.completed_file(split)).write_text(json.dumps(marker))
    return folder


@pytest.mark.parametrize("num_records", [0, 3, 6])
@pytest.mark.parametrize("num_more_bytes", [0, 5, 40])
def test_of_a_shard_whose_length_is_known_every_record_that_is_missing_is_a_bad_row(
    tmp_path, num_records, num_more_bytes
):
    folder = own_dataset(tmp_path / "out")
    path = folder / metadata.shard_file("test", 1, 2)
    record = tfrecord.frame(
        schema.encode(schema.Example("x", b"jpeg", (0,), (1.0,), ("",), (), ()))
    )
    path.write_bytes((record * 7)[: num_records * len(record) + num_more_bytes])
    marker = folder / metadata.completed_file("test")
    lengths = {"shard_lengths": [2, 7], "num_examples": 9}
    marker.write_text(json.dumps(json.loads(marker.read_text()) | lengths))
    found = read(folder, source_split="test")[2:]
    assert [row.place for row in found] == [f"1:{number}" for number in range(1, 8)]
    kinds = [ImageRow] * num_records + [BadRow] * (7 - num_records)
    assert [type(row) for row in found] == kinds
    assert found[-1].detail.endswith(f"it has {num_records} of 7 records")


OWN_ANNOTATIONS = (
    Annotation("animal", 0.8, "hierarchy"),
    Annotation("cat", 1.0, "verification"),
    Annotation("dog", 0.0, "crowdsource-verification"),
)


def test_completed_splits_of_ours_are_read_without_loss(tmp_path):
    folder = own_dataset(tmp_path / "out")
    inventory = source(folder).inventory()
    assert (inventory.num_rows, len(inventory.parts)) == (4, 4)
    assert source(folder).vocabulary().classes == CLASSES
    found = {row.image_id: row for row in read(folder)}
    assert sorted(found) == ["test/1", "test/2", "train/1", "train/2"]
    row = found["train/1"]
    assert (row.annotations, row.split) == (OWN_ANNOTATIONS, "train")
    assert image_bytes(row) == b"jpeg of train"
    assert found["test/2"].annotations == ()


def test_sharding_a_dataset_anew_gives_the_same_records(workplace, tmp_path):
    workplace.write_labels(workplace.add_images(9))
    assert workplace.run("--num_shards=2") == 0
    arguments = ["--source=tfrecord", f"--images={workplace.output}", "--num_shards=3"]
    assert beam_runner.main([*arguments, f"--output={tmp_path}/again", "--split=again"]) == 0

    def records(pattern):
        streams = (io.BytesIO(path.read_bytes()) for path in tmp_path.glob(pattern))
        return sorted(record for stream in streams for record in tfrecord.read(stream))

    again = records("again/images-again.*")
    assert len(again) == 9
    assert again == records("out/images-train.*")
    classes = (workplace.output / "classes.tsv").read_text()
    assert (tmp_path / "again/classes.tsv").read_text() == classes


def test_one_completed_split_can_be_chosen(tmp_path):
    folder = own_dataset(tmp_path / "out")
    assert {row.split for row in read(folder, source_split="test")} == {"test"}
    with pytest.raises(SourceError, match=r"no split 'eval'. Completed splits: test, train"):
        source(folder, source_split="eval").inventory()


def test_shards_of_ours_named_one_by_one_know_their_classes_too(tmp_path):
    folder = own_dataset(tmp_path / "out")
    row, _ = read(folder / "images-train.tfrecord-*")
    assert row.annotations == OWN_ANNOTATIONS
    assert source(folder / "images-train.tfrecord-*").vocabulary().classes == CLASSES


def test_a_dataset_of_ours_that_lacks_something_is_refused(tmp_path):
    folder = own_dataset(tmp_path / "out")
    with pytest.raises(SourceError, match="leave out --labels_column"):
        source(folder, labels_column="labels").inventory()
    shard = folder / metadata.shard_file("train", 1, 2)
    shard.unlink()
    with pytest.raises(
        SourceError, match=r"1 of 2 files of split 'train' are gone.*00001-of-00002"
    ):
        source(folder).inventory()
    for marker in folder.glob("*.completed.json"):
        marker.unlink()
    with pytest.raises(SourceError, match="has no completed split"):
        source(folder).inventory()


def test_a_class_id_without_a_class_is_a_bad_row(tmp_path):
    folder = own_dataset(tmp_path / "out")
    (folder / metadata.CLASSES_FILE).write_text("class\tname\nanimal\tanimal\n")
    row = read(folder, source_split="test")[0]
    assert row.detail == "'labels' has 1, but there are 1 names"


def test_whatever_is_flipped_cut_or_inserted_every_record_is_a_row_or_a_bad_row(tmp_path):
    rng = random.Random(3)
    record = example(**GOOD)
    path = tmp_path / "x.tfrecord"
    for _ in range(300):
        mutated = bytearray(record)
        position = rng.randrange(len(mutated))
        kind = rng.randrange(3)
        if kind == 0:
            mutated[position] = rng.randrange(256)
        elif kind == 1:
            del mutated[position : position + rng.randrange(1, 9)]
        else:
            mutated[position:position] = rng.randbytes(rng.randrange(1, 12))
        path.write_bytes(tfrecord.frame(record) + tfrecord.frame(bytes(mutated)))
        first, second = read(path)
        assert isinstance(first, ImageRow)
        assert isinstance(second, ImageRow | BadRow)


def test_a_length_that_lies_costs_no_memory(tmp_path):
    length = struct.pack("<Q", 1 << 40)
    frame = tfrecord.frame(length)  # begins with another length, and ends with the checksum of this
    path = tmp_path / "x.tfrecord"
    path.write_bytes(tfrecord.frame(example(**GOOD)) + length + frame[-4:] + b"x" * 100)
    assert read(path)[1].detail.startswith(f"a record of {1 << 40} bytes: 112 bytes from byte ")


def test_one_record_at_a_time_is_in_memory(tmp_path):
    path = write(tmp_path / "x.tfrecord", *[example(**{**GOOD, "image": bytes(1 << 20)})] * 64)
    found = source(path)
    (part,) = found.inventory().parts
    tracemalloc.start()
    try:
        assert sum(len(batch.keys) for batch in found.batches(part, "unpacked")) == 64
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_tensorflow_is_not_imported(tmp_path):
    path = write(tmp_path / "x.tfrecord", example(**GOOD))
    code = (
        "import sys; from pipeline.sources.tfrecord import TFRecord;"
        "from pipeline.sources.source import SourceOptions;"
        f"source = TFRecord(SourceOptions('tfrecord', {str(path)!r}));"
        "print(sum(len(batch.keys) for part in source.inventory().parts"
        " for batch in source.batches(part, 'unpacked')));"
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.tfrecord"
    os.rename(write(tmp_path / "x.tfrecord", example(**GOOD)), path)
    with pytest.raises(SourceError, match="is not UTF-8"):
        source(os.fsdecode(path)).inventory()
