import os

import pytest

from pipeline import fetch
from pipeline.images import ImageError


def test_paths_stand_below_the_folder_unless_they_are_absolute_or_uris():
    assert fetch.resolve("photos", "cats/1.jpg") == "photos/cats/1.jpg"
    assert fetch.resolve("photos", "/data/1.jpg") == "/data/1.jpg"
    assert fetch.resolve("photos", "gs://bucket/1.jpg") == "gs://bucket/1.jpg"
    assert fetch.resolve("photos", "file:///data/1.jpg") == "/data/1.jpg"


def test_a_file_gives_its_bytes(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"bytes")
    assert fetch.fetch(str(tmp_path / "1.jpg")) == b"bytes"


def reason(address):
    with pytest.raises(ImageError) as caught:
        fetch.fetch(str(address))
    return caught.value.reason


def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path):
    assert reason(tmp_path / "absent.jpg") == "not_found"
    assert reason(tmp_path) == "unreadable"
    assert reason("nosuch://bucket/1.jpg") == "unreadable"
    assert reason("a\0b.jpg") == "unreadable"


def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "unreadable"
