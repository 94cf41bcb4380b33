"""What evaluation splits hold, and what of training is the same."""

import hashlib
import json

import pytest

from pipeline import metadata
from pipeline.fetch import content_key
from pipeline.held_out import HeldOut


@pytest.fixture
def add_split(tmp_path):
    """Leaves what a finished split of such (file, checksum) leaves of its contents."""

    def add(split, *files):
        lines = ["image_id,content_key,sha256,checksum"]
        for number, (data, checksum) in enumerate(files):
            sha256 = hashlib.sha256(data).hexdigest()
            lines.append(f"{number},{content_key(data)},{sha256},{checksum}")
        (tmp_path / metadata.contents_file(split)).write_text("\n".join(lines) + "\n")
        marker = {"split": split, "num_examples": len(files), "shard_lengths": [len(files)]}
        marker |= {"num_bytes": 1, "format_version": 1, "fingerprint": "f" * 64}
        (tmp_path / metadata.completed_file(split)).write_text(json.dumps(marker))

    return add


def test_an_image_is_held_out_by_its_bytes_or_its_checksum(tmp_path, add_split):
    add_split("eval", (b"cat", "md5:1"), (b"dog", ""))
    add_split("fasteval", (b"newt", "md5:2"))
    held_out = HeldOut(str(tmp_path), ["eval", "fasteval"])
    assert held_out.split_of(b"cat", "") == "eval"
    assert held_out.split_of(b"dog", "md5:3") == "eval"
    assert held_out.split_of(b"newt", "") == "fasteval"
    assert held_out.split_of(b"a smaller cat", "md5:1") == "eval"  # of the original file
    assert held_out.split_of(b"a smaller newt", "md5:2") == "fasteval"
    assert held_out.split_of(b"yak", "md5:3") is None
    assert held_out.split_of(b"yak", "") is None


def test_files_that_only_end_alike_are_told_apart(tmp_path, add_split):
    tail = bytes(5000)  # more than a content key reads
    add_split("eval", (b"cat" + tail, ""))
    held_out = HeldOut(str(tmp_path), ["eval"])
    assert held_out.split_of(b"cat" + tail, "") == "eval"
    assert held_out.split_of(b"dog" + tail, "") is None


def test_without_evaluation_splits_nothing_is_held_out(tmp_path):
    assert HeldOut(str(tmp_path), []).split_of(b"cat", "md5:1") is None
