"""Real jobs over real files, through the command."""

import csv
import io
import json
import random
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from workplace import CLASSES, Workplace, jpeg

import beam_runner
from pipeline import metadata, schema, tfrecord


def examples(workplace, split="train"):
    """Every example of a split, in order."""
    found = []
    for shard in workplace.shards(split).values():
        found += map(schema.decode, tfrecord.read(io.BytesIO(shard)))
    return found


def test_every_row_ends_in_a_shard_with_its_labels(workplace, capsys):
    workplace.write_labels(workplace.add_images(30))
    assert workplace.run("--num_shards=4") == 0
    assert "split 'train' is complete" in capsys.readouterr().out
    found = {example.image_id: example for example in examples(workplace)}
    assert sorted(found) == sorted(f"{index}.jpg" for index in range(30))
    assert found["0.jpg"].labels == (0, 1)  # cat|animal
    assert found["1.jpg"].labels == (0, 2)  # dog|animal
    assert found["2.jpg"].labels == (3,)  # plant
    assert found["7.jpg"].image == (workplace.images / "7.jpg").read_bytes()

    split = metadata.load_split(workplace.output, "train")
    assert split.num_examples == sum(split.shard_lengths) == 30
    assert len(split.shard_paths) == 4
    assert split.class_counts.tolist() == [20, 10, 10, 10]
    assert metadata.load_vocabulary(workplace.output).names[1] == "The cat"
    assert not list(workplace.output.rglob("*.tmp"))


def test_shards_that_were_half_written_end_in_more_losses_than_are_allowed(workplace, capsys):
    for shard in range(4):
        path = workplace.images / f"{shard}.tar"
        with tarfile.open(path, "w") as archive:
            for index in range(10):
                for name, data in (("jpg", jpeg(seed=index)), ("cls", b"cat")):
                    info = tarfile.TarInfo(f"{shard}-{index}.{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        length = archive.offset // 2 + 200 if shard % 2 else archive.offset  # without padding
        path.write_bytes(path.read_bytes()[:length])
    flags = ("--source=webdataset", f"--images={workplace.images}/*.tar")
    assert workplace.run(*flags, "--max_failure_rate=0.1", without=("labels",)) == 3
    assert "bad_row" in capsys.readouterr().err
    assert not (workplace.output / metadata.completed_file("train")).exists()
    letters = list(csv.DictReader(io.StringIO(workplace.dead_letters())))
    assert len(letters) in range(9, 12)
    assert {letter["reason"] for letter in letters} == {"bad_row"}
    assert "lost behind sample" in letters[0]["detail"]


def test_images_are_brought_down_to_the_shorter_side(workplace):
    workplace.write_labels(["big.jpg,cat"])
    (workplace.images / "big.jpg").write_bytes(jpeg(400, 300))
    assert workplace.run("--shorter_side=96") == 0
    (example,) = examples(workplace)
    assert Image.open(io.BytesIO(example.image)).size == (128, 96)


def test_more_shards_than_rows_leaves_empty_shards(workplace):
    workplace.write_labels(workplace.add_images(2))
    assert workplace.run("--num_shards=8") == 0
    assert len(workplace.shards()) == 8
    assert len(examples(workplace)) == 2
    assert len(metadata.load_split(workplace.output, "train").shard_paths) == 8


def test_the_order_of_rows_does_not_change_a_byte(tmp_path):
    shards = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        workplace = Workplace(tmp_path / name)
        rows = workplace.add_images(40)
        if name == "two":
            random.Random(0).shuffle(rows)
        workplace.write_labels(rows)
        assert workplace.run("--num_shards=5") == 0
        shards.append(workplace.shards())
    assert shards[0] == shards[1]
    assert len(shards[0]) == 5


def test_the_number_of_processes_does_not_change_a_byte(workplace):
    workplace.write_labels(workplace.add_images(40))
    assert workplace.run("--num_shards=5", f"--output={workplace.root / 'one_process'}") == 0
    flags = ["--num_shards=5", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = [sys.executable, beam_runner.__file__, *workplace.arguments(*flags)]
    finished = subprocess.run(
        command, cwd=workplace.root, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    found = workplace.shards()
    workplace.output = workplace.root / "one_process"
    assert found == workplace.shards()
    assert len(found) == 5


def test_what_fails_becomes_a_dead_letter_with_its_reason_and_place(workplace, capsys):
    rows = workplace.add_images(20)
    good = jpeg(200, 150)
    damaged = {
        "truncated.jpg": good[: len(good) // 2],
        "empty.jpg": b"",
        "text.jpg": b"<html>not found</html>",
    }
    for name, data in damaged.items():
        (workplace.images / name).write_bytes(data)
        rows.append(f"{name},cat|animal")
    rows += ["absent.jpg,dog", "0.jpg,cat,stray", "1.jpg,cat|unicorn"]
    workplace.write_labels(rows)
    with workplace.labels.open("ab") as stream:
        stream.write(b"caf\xe9.jpg,cat\n")  # Latin-1
    assert workplace.run("--max_failure_rate=0.5") == 0

    letters = list(csv.DictReader(io.StringIO(workplace.dead_letters())))
    found = {letter["image_path"]: letter["reason"] for letter in letters}
    assert found == {
        "truncated.jpg": "truncated_jpeg",
        "empty.jpg": "empty_file",
        "text.jpg": "not_an_image",
        "absent.jpg": "not_found",
        "": "bad_row",
    }
    bad_rows = {letter["place"]: letter["detail"] for letter in letters if not letter["image_id"]}
    assert bad_rows == {
        f"{workplace.labels}:26": "3 cells below a header of 2: 0.jpg,cat,stray",
        f"{workplace.labels}:28": "not UTF-8: caf\\udce9.jpg,cat",
    }
    by_reason = {letter["reason"]: letter for letter in letters}
    assert by_reason["truncated_jpeg"]["place"] == f"{workplace.labels}:22"
    assert by_reason["truncated_jpeg"]["labels"] == "animal|cat"
    completed = json.loads((workplace.output / "train.completed.json").read_text())
    assert completed["num_examples"] == 20
    assert completed["dead_letters"] == dict.fromkeys(found.values(), 1) | {"bad_row": 2}
    assert completed["unknown_labels"] == {"unicorn": 1}
    # 20 images with 34 labels, 7 of lost images, and the known one beside the unicorn.
    assert "  labels unknown 1 of 43 (2%)" in capsys.readouterr().out


def test_a_deeply_nested_json_line_costs_only_itself(workplace):
    workplace.add_images(2)
    lines = [json.dumps({"path": f"{index}.jpg", "labels": ["cat"]}) for index in range(2)]
    workplace.labels = workplace.root / "train.jsonl"
    workplace.labels.write_text("\n".join([lines[0], "[" * 100_000, lines[1]]) + "\n")
    assert workplace.run("--max_failure_rate=0.5") == 0
    assert len(examples(workplace)) == 2
    assert workplace.dead_letters().count("bad_row") == 1


def test_most_labels_unknown_end_with_code_3_and_name_the_most_frequent(workplace, capsys):
    workplace.add_images(4)
    workplace.write_labels(["0.jpg,Cat", "1.jpg,Cat", "2.jpg,Dog", "3.jpg,cat"])
    assert workplace.run() == 3
    captured = capsys.readouterr()
    assert "  labels unknown 3 of 4 (75%)" in captured.out
    assert (
        "3 of 4 (75%) labels are not in the class list, for instance 'Cat', 'Dog'" in captured.err
    )
    assert "--labels_column and --label_delimiter" in captured.err
    assert metadata.completed_splits(workplace.output) == []


def test_half_of_the_labels_unknown_is_said_and_stands(workplace, capsys):
    workplace.add_images(2)
    workplace.write_labels(["0.jpg,Cat", "1.jpg,cat"])
    assert workplace.run() == 0
    assert "  labels unknown 1 of 2 (50%)" in capsys.readouterr().out


def test_a_split_without_an_image_is_refused_whatever_may_fail(workplace, capsys):
    workplace.write_labels(["a.jpg,cat", "b.jpg,cat"])
    assert workplace.run("--max_failure_rate=1") == 3
    assert "none of 2 rows gave an image: 2 not_found" in capsys.readouterr().err


def test_an_empty_label_file_among_others_is_passed_over(workplace):
    workplace.write_labels(workplace.add_images(3))
    (workplace.root / "train2.csv").write_bytes(b"")
    assert workplace.run(f"--labels={workplace.root}/train*.csv") == 0
    assert len(examples(workplace)) == 3


def test_file_uris_are_read_as_local_paths(workplace):
    workplace.add_images(1)
    uri = f"file://{workplace.images / '0.jpg'}"
    workplace.write_labels([f"{uri},cat"])
    assert workplace.run(f"--images=file://{workplace.images}") == 0
    assert [example.image_id for example in examples(workplace)] == [uri]


def test_the_dead_letters_are_a_manifest_of_what_to_do_again(workplace):
    rows = [*workplace.add_images(4), "late.jpg,dog|animal"]
    workplace.write_labels(rows)
    assert workplace.run("--max_failure_rate=0.5") == 0
    (workplace.images / "late.jpg").write_bytes(jpeg(seed=99))
    letters = workplace.output / "train.dead_letters.csv"
    assert workplace.run(f"--labels={letters}", split="again") == 0
    (example,) = examples(workplace, "again")
    assert (example.image_id, example.labels) == ("late.jpg", (0, 2))


def test_rows_of_one_id_are_merged_with_all_their_labels(workplace, capsys):
    workplace.add_images(3)
    workplace.write_labels(["0.jpg,cat", "1.jpg,dog", "0.jpg,animal|cat", "0.jpg,plant"])
    assert workplace.run() == 0
    found = {example.image_id: example.labels for example in examples(workplace)}
    assert found == {"0.jpg": (0, 1, 3), "1.jpg": (2,)}
    assert "2 rows merged" in capsys.readouterr().out


def test_json_lines_and_several_label_files_are_read(workplace):
    workplace.add_images(4)
    for index in range(2):
        row = {"file_name": f"{index}.jpg", "labels": ["cat"]}
        (workplace.root / f"part-{index}.jsonl").write_text(json.dumps(row) + "\n")
    assert workplace.run(f"--labels={workplace.root}/part-*.jsonl") == 0
    assert sorted(example.image_id for example in examples(workplace)) == ["0.jpg", "1.jpg"]


def test_absolute_paths_are_read_as_they_are(workplace):
    elsewhere = workplace.root / "elsewhere.jpg"
    elsewhere.write_bytes(jpeg())
    workplace.write_labels([f"{elsewhere},cat"])
    assert workplace.run() == 0
    assert [example.image_id for example in examples(workplace)] == [str(elsewhere)]


def test_too_many_failures_end_with_code_3_and_no_marker(workplace, capsys):
    workplace.write_labels([*workplace.add_images(8), "a.jpg,cat", "b.jpg,cat"])
    assert workplace.run() == 3
    error = capsys.readouterr().err
    assert "20.00% of 10 images are lost" in error
    assert "2 not_found" in error
    assert not (workplace.output / "train.completed.json").exists()
    with pytest.raises(metadata.MetadataError, match=r"'train' of .* is not completed"):
        metadata.load_split(workplace.output, "train")
    for name in "ab":
        (workplace.images / f"{name}.jpg").write_bytes(jpeg(seed=ord(name)))
    assert workplace.run() == 0  # what could not be found is looked for again
    assert len(examples(workplace)) == 10


def test_a_class_list_that_knows_no_label_ends_with_code_3(workplace, capsys):
    workplace.write_labels(["0.jpg,Katze", "1.jpg,Hund"])
    workplace.add_images(2)
    assert workplace.run() == 3
    assert "2 of 2 (100%) labels are not in the class list" in capsys.readouterr().err


def test_two_splits_share_a_folder_and_tfds_reads_both(workplace):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("tensorflow")
    workplace.write_labels(workplace.add_images(20))
    assert workplace.run("--num_shards=3") == 0
    assert workplace.run("--num_shards=2", split="eval") == 0
    builder = tfds.builder_from_directory(workplace.output)
    assert sorted(builder.info.splits) == ["eval", "train"]
    assert tuple(builder.info.features["labels"].feature.names) == CLASSES
    found = list(builder.as_dataset(split="train"))
    assert len(found) == builder.info.splits["train"].num_examples == 20
    by_id = {example["image_id"].numpy().decode(): example for example in found}
    np.testing.assert_array_equal(by_id["0.jpg"]["labels"], [0, 1])
    assert by_id["0.jpg"]["image"].shape == (30, 40, 3)
    assert len(list(builder.as_dataset(split="train[:10%]"))) == 2
    assert len(list(builder.as_dataset(split="eval[:5]"))) == 5


def test_tensorflow_reads_the_shards(workplace):
    tf = pytest.importorskip("tensorflow")
    workplace.write_labels(workplace.add_images(5))
    assert workplace.run("--num_shards=2") == 0
    paths = metadata.load_split(workplace.output, "train").shard_paths
    ids = set()
    for record in tf.data.TFRecordDataset(list(paths)):
        example = tf.train.Example.FromString(record.numpy())
        ids.add(example.features.feature["image_id"].bytes_list.value[0].decode())
        tf.io.decode_jpeg(example.features.feature["image"].bytes_list.value[0])
    assert ids == {f"{index}.jpg" for index in range(5)}


def test_the_job_imports_no_tensorflow(workplace):
    workplace.write_labels(workplace.add_images(3))
    code = (
        "import sys, beam_runner\n"
        "code = beam_runner.main(sys.argv[1:])\n"
        "sys.exit(9 if 'tensorflow' in sys.modules else code)\n"
    )
    command = [sys.executable, "-c", code, *workplace.arguments()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
