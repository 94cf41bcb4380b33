import hashlib
import os
import pickle
import threading

import pytest
from apache_beam.io.filesystem import FileMetadata, FileSystem

from pipeline import fetch, images
from pipeline.fetch import Fetcher, content_key, reference
from pipeline.images import ImageError


def test_paths_stand_below_the_folder_unless_they_are_absolute_or_uris():
    assert fetch.resolve("photos", "cats/1.jpg") == "photos/cats/1.jpg"
    assert fetch.resolve("photos/", "cats/1.jpg") == "photos/cats/1.jpg"
    assert fetch.resolve("/", "cats/1.jpg") == "/cats/1.jpg"
    assert fetch.resolve("photos", "/data/1.jpg") == "/data/1.jpg"
    assert fetch.resolve("photos", "gs://bucket/1.jpg") == "gs://bucket/1.jpg"
    assert fetch.resolve("gs://bucket/photos", "1.jpg") == "gs://bucket/photos/1.jpg"
    assert fetch.resolve("https://host/photos/", "1.jpg") == "https://host/photos/1.jpg"
    assert fetch.resolve("photos", "file:///data/1.jpg") == "/data/1.jpg"
    assert fetch.resolve("photos", "a.tar#512+9") == "photos/a.tar#512+9"


def reason(action, *arguments):
    with pytest.raises(ImageError) as caught:
        action(*map(str, arguments))
    assert caught.value.reason in images.REASONS
    return caught.value.reason


def test_a_file_gives_its_bytes(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"bytes")
    assert Fetcher(str(tmp_path)).fetch("1.jpg") == b"bytes"
    assert Fetcher("elsewhere").fetch(str(tmp_path / "1.jpg")) == b"bytes"


@pytest.mark.parametrize("action", ["fetch", "probe"])
def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path, action):
    act = getattr(Fetcher("photos"), action)
    assert reason(act, tmp_path / "absent.jpg") == "not_found"
    assert reason(act, tmp_path) == "unreadable"
    assert reason(act, "nosuch://bucket/1.jpg") == "unreadable"
    assert reason(act, "/a\0b.jpg") == "unreadable"
    assert reason(act, f"{tmp_path}/absent.tar#0+5") == "not_found"


@pytest.mark.parametrize("action", ["fetch", "probe"])
def test_a_pipe_is_refused_without_waiting_for_its_writer(tmp_path, action):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(getattr(Fetcher(""), action), tmp_path / "pipe.jpg") == "unreadable"
    assert reason(getattr(Fetcher(""), action), f"{tmp_path}/pipe.jpg#0+1") == "unreadable"


def test_a_file_of_too_many_bytes_is_refused(tmp_path):
    with open(tmp_path / "sparse.jpg", "wb") as stream:
        stream.truncate(images.MAX_FILE_BYTES + 1)
    for act in (Fetcher("").fetch, Fetcher("").probe):
        assert reason(act, tmp_path / "sparse.jpg") == "too_many_bytes"
        assert reason(act, reference("a.tar", 0, images.MAX_FILE_BYTES + 1)) == "too_many_bytes"


def test_a_reference_gives_the_bytes_inside_another_file(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    fetcher = Fetcher(str(tmp_path))
    assert fetcher.fetch(reference("a.tar", 3, 4)) == b"3456"
    assert fetcher.fetch(reference(str(tmp_path / "a.tar"), 0, 10)) == b"0123456789"
    assert fetcher.fetch("a.tar#10+0") == b""
    assert reason(fetcher.fetch, "a.tar#8+3") == "unreadable"
    assert reason(fetcher.probe, "a.tar#8+3") == "unreadable"


def test_more_files_are_referenced_than_are_kept_open(tmp_path):
    for index in range(100):
        (tmp_path / str(index)).write_bytes(b"image of %d" % index)
    fetcher = Fetcher(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    wanted = [*range(100), *reversed(range(100))]
    assert [fetcher.fetch(f"{n}#9+{len(str(n))}") for n in wanted] == [b"%d" % n for n in wanted]
    assert len(os.listdir("/proc/self/fd")) <= before + 32
    del fetcher
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 20_000])
def test_a_probe_is_the_content_key_of_the_whole(tmp_path, size):
    data = os.urandom(size)
    (tmp_path / "1.jpg").write_bytes(data)
    (tmp_path / "a.tar").write_bytes(b"before" + data + b"after")
    expected = f"{size}-{hashlib.blake2b(data[-4096:], digest_size=16).hexdigest()}"
    assert content_key(data) == expected
    fetcher = Fetcher(str(tmp_path))
    assert fetcher.probe("1.jpg") == expected
    assert fetcher.probe(reference("a.tar", 6, size)) == expected


def test_a_checksum_is_verified_where_it_is_known(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"abc")
    fetcher = Fetcher(str(tmp_path))
    assert fetcher.fetch("1.jpg", "md5:900150983cd24fb0d6963f7d28e17f72") == b"abc"
    sha256 = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fetcher.fetch("1.jpg", sha256) == b"abc"
    with pytest.raises(ImageError) as caught:
        fetcher.fetch("1.jpg", "md5:0123")
    assert caught.value.reason == "checksum_mismatch"
    assert "md5:900150983cd24fb0d6963f7d28e17f72" in caught.value.detail
    assert "md5:0123" in caught.value.detail


def test_all_are_fetched_in_order_and_errors_stand_among_them(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"one")
    (tmp_path / "2.jpg").write_bytes(b"two")
    fetcher = Fetcher(str(tmp_path))
    first, second, third = fetcher.fetch_all([("1.jpg", ""), ("absent.jpg", ""), ("2.jpg", "")])
    assert (first, second.reason, third) == (b"one", "not_found", b"two")
    first, second = fetcher.probe_all(["absent.jpg", "2.jpg"])
    assert (first.reason, second) == ("not_found", content_key(b"two"))


def test_local_files_are_read_one_by_one_without_a_thread(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"one")
    num_threads = threading.active_count()
    given = []

    def wanted():
        for index in range(100):
            given.append(index)
            yield "1.jpg", ""

    fetched = Fetcher(str(tmp_path)).fetch_all(wanted())
    for index, data in enumerate(fetched):
        assert data == b"one"
        assert len(given) == index + 1
        assert threading.active_count() == num_threads


def test_a_fetcher_is_pickled_without_what_it_has_opened(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"bytes")
    fetcher = Fetcher(str(tmp_path), ("localhost:80",))
    assert fetcher.fetch("1.jpg#0+2") == b"by"
    assert pickle.loads(pickle.dumps(fetcher)).fetch("1.jpg#0+2") == b"by"  # noqa: S301


class UnsteadyFileSystem(FileSystem):
    """unsteady:///path: the local file, which cannot be opened so many times."""

    num_failures = 0

    @classmethod
    def scheme(cls):
        return "unsteady"

    def open(self, path, mime_type=None, compression_type=None):
        if UnsteadyFileSystem.num_failures > 0:
            UnsteadyFileSystem.num_failures -= 1
            raise RuntimeError("the store is busy")
        return open(path.removeprefix("unsteady://"), "rb")

    def exists(self, path):
        return os.path.exists(path.removeprefix("unsteady://"))

    def metadata(self, path):
        return FileMetadata(path, os.path.getsize(path.removeprefix("unsteady://")))

    def _unsupported(self, *arguments, **options):
        raise NotImplementedError

    has_dirs = join = split = mkdirs = create = copy = rename = delete = _unsupported
    size = last_updated = checksum = match = _list = _unsupported


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(UnsteadyFileSystem, "num_failures", 3)
    (tmp_path / "1.jpg").write_bytes(bytes(range(256)) * 100)
    return f"unsteady://{tmp_path}"


def test_a_store_gives_files_and_pieces_of_them(stored, monkeypatch):
    monkeypatch.setattr(UnsteadyFileSystem, "num_failures", 0)
    data = bytes(range(256)) * 100
    fetcher = Fetcher(stored)
    assert fetcher.fetch("1.jpg") == data
    assert fetcher.fetch("1.jpg#300+7") == data[300:307]
    assert fetcher.probe("1.jpg") == content_key(data)
    assert fetcher.probe("1.jpg#100+9000") == content_key(data[100:9100])
    assert list(fetcher.fetch_all([("1.jpg", "")] * 99)) == [data] * 99
    assert reason(fetcher.fetch, "absent.jpg") == "not_found"
    assert reason(fetcher.probe, "absent.jpg") == "not_found"


@pytest.mark.parametrize("name", ["cat [1].jpg", "what?.jpg", "a*.jpg", "[.jpg", "**/1.jpg"])
def test_a_name_in_a_store_is_no_pattern(stored, tmp_path, monkeypatch, name):
    monkeypatch.setattr(UnsteadyFileSystem, "num_failures", 0)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"meant")
    assert Fetcher(stored).fetch(name) == b"meant"
    assert Fetcher(stored).probe(name) == content_key(b"meant")


@pytest.mark.parametrize("action", ["fetch", "probe"])
def test_a_store_that_fails_is_tried_again(stored, action):
    assert getattr(Fetcher(stored), action)("1.jpg")
    assert UnsteadyFileSystem.num_failures == 0


def test_a_store_that_goes_on_failing_is_unreadable(stored, monkeypatch):
    monkeypatch.setattr(UnsteadyFileSystem, "num_failures", 4)
    assert reason(Fetcher(stored).fetch, "1.jpg") == "unreadable"
