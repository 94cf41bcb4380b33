import hashlib
import itertools

from workplace import CLASSES, jpeg

from pipeline import sharding
from pipeline.records import BadRow


def plan(tmp_path, num_shards=1):
    recipe = sharding.Recipe("train", num_shards, None, 90, "|")
    return sharding.Plan(str(tmp_path), str(tmp_path), "0" * 64, CLASSES, recipe)


def row(name, labels=(0,), unknown=()):
    return sharding.Row(name, name, labels, unknown, "rows.csv:2")


def test_the_order_is_a_keyed_blake2b_of_the_id():
    key = b"xception-at-scale shard order 1"
    digest = hashlib.blake2b(b"a.jpg", digest_size=8, key=key).digest()
    assert sharding.order_key("a.jpg") == int.from_bytes(digest, "big")


def test_shards_are_even_and_cut_the_order_into_runs():
    ids = sorted((f"{index}.jpg" for index in range(20_000)), key=sharding.order_key)
    shards = [sharding.shard_of(image_id, 16) for image_id in ids]
    assert shards == sorted(shards)
    lengths = [len(list(group)) for _, group in itertools.groupby(shards)]
    assert len(lengths) == 16
    assert max(lengths) < 1.15 * 20_000 / 16


def test_the_order_of_the_rows_does_not_change_the_commit(tmp_path):
    for name in "abc":
        (tmp_path / name).write_bytes(jpeg(seed=ord(name)))
    rows = [row("a"), row("b", (1, 3)), row("c"), row("a", (2,)), BadRow("x,y,z", "3 cells", "r:9")]
    commits = []
    for order in itertools.permutations(rows):
        writer = sharding.ShardWriter(plan(tmp_path), 0)
        commits.append(writer.write(order))
    assert all(commit == commits[0] for commit in commits)
    assert commits[0].num_rows == 5
    assert commits[0].num_duplicates == 1
    assert commits[0].class_counts == {0: 2, 1: 1, 2: 1, 3: 1}
    assert [letter.reason for letter in commits[0].dead_letters] == ["bad_row"]


def test_a_commit_reads_back_the_same(tmp_path):
    (tmp_path / "a").write_bytes(jpeg())
    commit = sharding.ShardWriter(plan(tmp_path), 0).write([row("a", (0, 2), ("unicorn",))])
    assert sharding.Commit.from_json(commit.to_json()) == commit
    path = sharding.commit_path(str(tmp_path), "train", 0, 1)
    assert sharding.read_commit(path) == commit
    shard = tmp_path / "images-train.tfrecord-00000-of-00001"
    assert commit.num_bytes == shard.stat().st_size
    assert commit.sha256 == hashlib.sha256(shard.read_bytes()).hexdigest()


def test_other_rows_make_the_shard_anew(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(jpeg(seed=ord(name)))
    first = sharding.ShardWriter(plan(tmp_path), 0).write([row("a")])
    second = sharding.ShardWriter(plan(tmp_path), 0).write([row("a"), row("b")])
    assert first.fingerprint != second.fingerprint
    assert second.num_examples == 2


def test_a_shard_without_rows_is_an_empty_file(tmp_path):
    commit = sharding.ShardWriter(plan(tmp_path, num_shards=4), 3).write([])
    assert commit.num_examples == commit.num_bytes == 0
    assert (tmp_path / "images-train.tfrecord-00003-of-00004").read_bytes() == b""
