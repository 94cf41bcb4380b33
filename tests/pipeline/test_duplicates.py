"""Images of the same content, through the command."""

import base64
import collections
import csv
import functools
import hashlib
import http.server
import io
import json
import threading

import pytest
from workplace import jpeg

from pipeline import schema, tfrecord, verify, web


def examples(workplace, split="train"):
    found = []
    for shard in workplace.shards(split).values():
        found += map(schema.decode, tfrecord.read(io.BytesIO(shard)))
    return {example.image_id: example.labels for example in found}


def duplicates(workplace, split="train"):
    with (workplace.output / f"{split}.duplicates.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def summary(workplace, split="train"):
    return json.loads((workplace.output / f"{split}.completed.json").read_text())


@pytest.fixture
def twins(workplace):
    """Images 0.jpg to 9.jpg, and three more files with the content of 0.jpg and 1.jpg."""
    rows = workplace.add_images(10)  # 0: cat|animal, 1: dog|animal, 2: plant, ...
    for name, original in (("a.jpg", "0.jpg"), ("b.jpg", "0.jpg"), ("c.jpg", "1.jpg")):
        (workplace.images / name).write_bytes((workplace.images / original).read_bytes())
    workplace.write_labels([*rows, "a.jpg,plant", "b.jpg,dog", "c.jpg,dog"])
    return workplace


def test_images_of_one_content_are_merged_with_the_labels_of_all(twins, capsys):
    assert twins.run("--num_shards=4") == 0
    found = examples(twins)
    assert len(found) == 10
    (kept,) = {"0.jpg", "a.jpg", "b.jpg"} & set(found)
    assert found[kept] == (0, 1, 2, 3)  # cat|animal, plant, dog
    (other,) = {"1.jpg", "c.jpg"} & set(found)
    assert found[other] == (0, 2)
    assert {(row["duplicate_of"], row["split"]) for row in duplicates(twins)} == {
        (kept, ""),
        (other, ""),
    }
    assert summary(twins)["num_content_duplicates"] == 3
    assert "3 images into another of the same content" in capsys.readouterr().out


def test_files_that_end_alike_and_differ_are_both_kept(workplace):
    tail = bytes(5000)  # after the image's end: more than a content key reads
    for index in range(2):
        data = jpeg(seed=index, width=40)
        (workplace.images / f"{index}.jpg").write_bytes(data.ljust(9000, b"\0") + tail)
    workplace.write_labels(["0.jpg,cat", "1.jpg,dog"])
    assert workplace.run() == 0
    assert examples(workplace) == {"0.jpg": (1,), "1.jpg": (2,)}


def test_duplicates_are_kept_where_that_is_asked_for(twins):
    assert twins.run("--deduplicate=off") == 0
    assert len(examples(twins)) == 13
    assert duplicates(twins) == []


def test_a_wrong_or_missing_file_takes_no_other_with_it(workplace):
    rows = workplace.add_images(4)
    checksum = hashlib.md5((workplace.images / "0.jpg").read_bytes()).hexdigest()
    workplace.write_labels(
        [*(f"{row},{checksum}" for row in rows), f"absent.jpg,cat,{checksum}"],
        header="image_path,labels,md5",
    )
    for mode in ("content", "checksum"):
        assert workplace.run(f"--deduplicate={mode}", "--max_failure_rate=1", "--overwrite") == 0
        assert set(examples(workplace)) == {"0.jpg"}
        letters = list(csv.DictReader(io.StringIO(workplace.dead_letters())))
        reasons = {letter["image_id"]: letter["reason"] for letter in letters}
        wrong = dict.fromkeys(["1.jpg", "2.jpg", "3.jpg"], "checksum_mismatch")
        assert reasons == {**wrong, "absent.jpg": "not_found"}
        assert duplicates(workplace) == []


def test_files_of_one_id_are_reported(workplace, capsys):
    workplace.add_images(2)
    workplace.write_labels(["7,0.jpg,cat", "7,1.jpg,dog"], header="image_id,image_path,labels")
    assert workplace.run() == 0
    assert examples(workplace) == {"7": (1, 2)}
    assert duplicates(workplace) == [{"image_id": "1.jpg", "duplicate_of": "7", "split": ""}]
    assert "1 files have the id of another" in capsys.readouterr().out


def test_a_checksum_of_the_source_speaks_for_the_content(workplace):
    rows = workplace.add_images(3)
    same = base64.b64encode(hashlib.md5(b"the original").digest()).decode()
    workplace.write_labels(
        [f"{rows[0]},{same}", f"{rows[1]},{same}", f"{rows[2]},"],
        header="image_path,labels,md5",
    )
    # These are checksums of other files than those that are read, which is what open_images has:
    # a manifest's are of the files, and the images are lost.
    assert workplace.run("--deduplicate=checksum") == 3
    letters = list(csv.DictReader(io.StringIO(workplace.dead_letters())))
    assert {letter["reason"] for letter in letters} == {"checksum_mismatch"}
    assert duplicates(workplace) == []  # which file would it be?


def test_images_of_an_evaluation_split_are_kept_out_of_training(twins, capsys):
    training = twins.labels.read_text()
    twins.write_labels(["a.jpg,plant", "2.jpg,plant"])
    assert twins.run(split="eval") == 0
    twins.labels.write_text(training)
    assert twins.run() == 0
    found = set(examples(twins))
    assert not found & {"0.jpg", "a.jpg", "b.jpg", "2.jpg"}
    assert len(found) == 8
    assert summary(twins)["num_held_out"] == 2
    (first,) = {row["image_id"] for row in duplicates(twins) if row["split"]} - {"2.jpg"}
    merged = {row["image_id"] for row in duplicates(twins) if row["duplicate_of"] == first}
    assert {first, *merged} == {"0.jpg", "a.jpg", "b.jpg"}
    assert "2 images whose content an evaluation split holds" in capsys.readouterr().out
    assert len(examples(twins, "eval")) == 2  # which keeps its own


def test_training_that_was_there_first_stands_with_a_warning(twins, capsys):
    assert twins.run() == 0
    assert twins.run(split="eval") == 0
    assert "'train' was written before 'eval'" in capsys.readouterr().out
    assert twins.run() == 0
    captured = capsys.readouterr().out
    assert "is already complete" in captured
    assert "split 'train' was begun before 'eval'" in captured
    assert twins.run("--overwrite") == 3  # every image is in the evaluation split
    assert "none of 13 rows gave an image" in capsys.readouterr().err


@pytest.fixture
def failing_server(workplace, monkeypatch):
    """A server of the images, and of each the numbers of the requests that it answers with 503."""
    haste = functools.partial(web.Patience, first_wait=0.01)  # still the four attempts
    monkeypatch.setattr(web, "Patience", haste)
    failures, seen = {}, collections.Counter()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/")
            seen[name] += 1
            if seen[name] in failures.get(name, ()):
                self.send_error(503)
            else:
                super().do_GET()

        def log_message(self, *arguments):
            pass

    handler = functools.partial(Handler, directory=workplace.images)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}", failures
        server.shutdown()
        thread.join()


def test_what_only_the_writer_can_read_is_kept_out_of_training_all_the_same(
    twins, failing_server, capsys
):
    host, failures = failing_server
    columns = "image_id,image_path,labels"
    rows = [row.split(",") for row in twins.labels.read_text().split()[1:]]
    twins.write_labels(["0.jpg,0.jpg,cat"], columns)
    assert twins.run(split="eval") == 0
    twins.write_labels([f"{name},http://{host}/{name},{labels}" for name, labels in rows], columns)
    failures["a.jpg"] = range(1, 5)  # with the content of 0.jpg: when its end is read
    failures["c.jpg"] = range(2, 6)  # with that of 1.jpg: when the two are compared
    assert twins.run(f"--allow_hosts={host}") == 0
    held_out = {row["image_id"] for row in duplicates(twins) if row["split"] == "eval"}
    assert "a.jpg" in held_out
    assert set(examples(twins)) == {"c.jpg", *(f"{index}.jpg" for index in range(1, 10))}
    assert summary(twins)["num_not_compared"] == 1
    assert "1 images could not be read when duplicates were looked for" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["empty", "header", "cut", "binary", "absent"])
def test_a_damaged_list_of_contents_is_never_passed_over(twins, capsys, damage):
    assert twins.run(split="eval") == 0
    path = twins.output / "eval.contents.csv"
    whole = path.read_bytes()
    header = whole.splitlines(keepends=True)[0]
    texts = {"empty": b"", "header": header, "cut": whole[:300], "binary": b"\xff\0\x9f" * 50}
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(texts[damage])
    assert twins.run() == 75
    error = capsys.readouterr().err
    assert "eval.contents.csv, by which 'eval' is kept out of training, is missing" in error
    assert "Traceback" not in error
    assert verify.main([str(twins.output), "--split=eval"]) == 2
    path.unlink(missing_ok=True)
    assert twins.run(split="eval") == 0
    assert path.read_bytes() == whole
    assert twins.run() == 3  # every image is in the evaluation split


def test_training_waits_for_an_evaluation_split_that_has_begun(twins, capsys):
    twins.write_labels(["absent.jpg,cat", "0.jpg,cat"])
    assert twins.run(split="eval") == 3
    assert twins.run() == 2
    assert "the evaluation split 'eval' of" in capsys.readouterr().err
    assert twins.run("--deduplicate=off", "--max_failure_rate=0.5") == 0


def test_the_number_of_shards_and_processes_does_not_change_what_is_kept(twins):
    kept = []
    for flags in (["--num_shards=1"], ["--num_shards=7"], ["--num_shards=3", "--workers=2"]):
        assert twins.run("--overwrite", *flags) == 0
        kept.append(examples(twins))
    assert kept[0] == kept[1] == kept[2]
