import hashlib
import itertools
import json
import pathlib

import pytest
from workplace import CLASSES, jpeg

from pipeline import publish, rows, schema, sharding
from pipeline.annotations import LabelRules
from pipeline.fetch import Fetcher
from pipeline.labels import Vocabulary
from pipeline.recipe import ImageRecipe, Recipe, Selection
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.statistics import SplitStatistics


def plan(tmp_path, num_shards=1, split="train", min_labels=0):
    recipe = Recipe(
        split=split,
        selection=Selection(),
        num_shards=num_shards,
        images=ImageRecipe(),
        min_confidence=0.0,
        trusted_sources=None,
        hierarchy="",
        min_labels=min_labels,
        deduplicate="off",
        held_out=(),
        format_version=schema.FORMAT_VERSION,
        salt=rows.SALT,
        codecs=(),
    )
    return sharding.Plan(
        output=str(tmp_path),
        images=str(tmp_path),
        allow_hosts=(),
        files=("rows.csv",),
        verifies_checksums=True,
        counts_duplicates=True,
        fingerprint="0" * 64,
        rules=LabelRules(CLASSES),
        draw_rules=LabelRules(CLASSES),
        recipe=recipe,
    )


def row(name, *labels):
    annotations = tuple(Annotation(label) for label in labels or ("animal",))
    return ImageRow(name, name, annotations, "0:2")


def write(plan, found, shard=0, **notices):
    return sharding.ShardWriter(plan, shard, Fetcher(plan.images)).write(found, **notices)


def test_the_order_of_the_rows_does_not_change_the_commit(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(jpeg(seed=ord(name)))
    found = [row("a"), row("b", "cat", "plant"), row("c"), row("a", "dog"),
             BadRow("x,y,z", "3 cells", "0:9")]  # fmt: skip
    commits = [write(plan(tmp_path), order) for order in itertools.permutations(found)]
    assert all(commit == commits[0] for commit in commits)
    assert commits[0].num_rows == 5
    assert commits[0].num_images == 3
    assert commits[0].num_duplicates == 1
    assert commits[0].class_counts == {0: 2, 1: 1, 2: 1, 3: 1}
    assert commits[0].labels_per_image == {1: 1, 2: 2}
    assert commits[0].shorter_sides == {16: 3}  # they are 40 x 30
    assert [letter.reason for letter in commits[0].dead_letters] == ["bad_row"]
    assert commits[0].dead_letters[0].place == "rows.csv:9"


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_commit_reads_back_the_same(tmp_path, split):
    (tmp_path / "a").write_bytes(jpeg())
    commit = write(plan(tmp_path, split=split), [row("a", "animal", "unicorn"), row("absent")])
    assert sharding.Commit.from_json(commit.to_json()) == commit
    path = sharding.commit_path(str(tmp_path), split, 0, 1)
    assert sharding.read_commit(path) == commit
    shard = tmp_path / f"images-{split}.tfrecord-00000-of-00001"
    assert commit.num_bytes == shard.stat().st_size
    assert commit.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()
    assert commit.unknown_labels == {"unicorn": 1}
    assert len(commit.dead_letters) == 1


def test_an_evaluation_split_remembers_its_contents(tmp_path):
    (tmp_path / "a").write_bytes(jpeg())
    (content,) = write(plan(tmp_path, split="eval"), [row("a")]).contents
    assert content.image_id == "a"
    assert content.sha256 == hashlib.sha256(jpeg()).hexdigest()
    assert write(plan(tmp_path), [row("a")]).contents == ()


def test_other_rows_make_the_shard_anew(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(jpeg(seed=ord(name)))
    first = write(plan(tmp_path), [row("a")])
    second = write(plan(tmp_path), [row("a"), row("b")])
    assert first.fingerprint != second.fingerprint
    assert second.num_examples == 2


def test_a_shard_without_rows_is_an_empty_file(tmp_path):
    commit = write(plan(tmp_path, num_shards=4), [], shard=3)
    assert commit.num_examples == commit.num_bytes == 0
    assert (tmp_path / "images-train.tfrecord-00003-of-00004").read_bytes() == b""


def test_images_with_too_few_labels_are_left_out_and_counted(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(jpeg(seed=ord(name)))
    commit = write(plan(tmp_path, min_labels=2), [row("a", "cat"), row("b", "cat", "dog")])
    assert (commit.num_images, commit.num_left_out, commit.num_examples) == (2, 1, 1)


def test_an_image_that_no_row_places_is_a_dead_letter(tmp_path):
    commit = write(plan(tmp_path), [row("a")._replace(uri="")])
    (letter,) = commit.dead_letters
    assert (letter.image_id, letter.reason) == ("a", "not_found")


def test_a_duplicate_is_taken_out_and_its_labels_go_to_the_other(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(jpeg())
    notices = {
        "more": [ImageRow("a", "", (Annotation("dog"),), "0:3")],
        "duplicates": [sharding.Duplicate("b", "a", "")],
    }
    commit = write(plan(tmp_path), [row("a", "cat"), row("b", "dog")], **notices)
    assert commit.num_examples == 1
    assert commit.class_counts == {1: 1, 2: 1}
    assert commit.duplicates == (sharding.Duplicate("b", "a", ""),)


def two_attempts(tmp_path):
    """The same shard by two workers, of which the first does not get one of two images.

    What each leaves: (commit, {path: bytes} of its two files).
    """
    for name in "ab":
        (tmp_path / name).write_bytes(jpeg(seed=ord(name)))
    found = [row(name) for name in "ab"]
    place = plan(tmp_path)
    paths = [
        pathlib.Path(sharding.shard_path(str(tmp_path), "train", 0, 1)),
        pathlib.Path(sharding.commit_path(str(tmp_path), "train", 0, 1)),
    ]
    attempts = []
    for missing in ("b", None):
        if missing:
            (tmp_path / missing).rename(tmp_path / "away")
        commit = write(place, found)
        attempts.append((commit, {path: path.read_bytes() for path in paths}))
        if missing:
            (tmp_path / "away").rename(tmp_path / missing)
    return attempts


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("shard_of", [0, 1])
@pytest.mark.parametrize("commit_of", [0, 1])
def test_a_split_is_published_only_where_its_files_are_those_that_are_counted(
    tmp_path, counted, shard_of, commit_of
):
    attempts = two_attempts(tmp_path)
    for attempt, of in ((shard_of, 0), (commit_of, 1)):
        path, data = list(attempts[attempt][1].items())[of]
        path.write_bytes(data)
    statistics = SplitStatistics()
    statistics.add(attempts[counted][0])
    publisher = publish.Publish(plan(tmp_path), Vocabulary(CLASSES, CLASSES), publish.Limits(1, 1))
    marker = tmp_path / "train.completed.json"
    if counted == shard_of == commit_of:
        publisher.process(statistics)
        assert json.loads(marker.read_text())["num_examples"] == counted + 1
    else:
        with pytest.raises(sharding.ShardError, match="another attempt"):
            publisher.process(statistics)
        assert not marker.exists()
