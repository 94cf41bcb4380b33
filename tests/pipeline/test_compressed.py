import bz2
import gzip
import io
import lzma
import os
import socket

import pytest
import requests

from pipeline import compressed, object_stores, storage
from pipeline.sources.source import SourceOptions
from pipeline.sources.tfrecord import TFRecord
from pipeline.sources.webdataset import WebDataset

SUFFIXES = [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]


@pytest.mark.parametrize(("suffix", "compress"), SUFFIXES)
def test_a_file_is_unpacked_beside_others_of_its_name(tmp_path, suffix, compress):
    found = set()
    for folder in ("a", "b"):
        path = tmp_path / folder / f"x{suffix}"
        path.parent.mkdir()
        path.write_bytes(compress(folder.encode()) + compress(b" and more"))
        plain, damage = compressed.plain(str(path), str(tmp_path / "unpacked"))
        with open(plain, "rb") as stream, compressed.open_to_read(str(path)) as streamed:
            assert stream.read() == streamed.read() == folder.encode() + b" and more"
        assert damage == ""
        found.add(plain)
    assert len(found) == 2


def test_a_file_that_is_not_compressed_stays_where_it_is(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"as it is")
    assert compressed.plain(str(path), str(tmp_path / "unpacked")) == (str(path), "")
    with compressed.open_to_read(str(path)) as stream:
        assert stream.read() == b"as it is"
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("cut", [1, 9, 400])
def test_what_comes_before_the_damage_is_kept_and_the_damage_told_every_time(tmp_path, cut):
    path = tmp_path / "x.gz"
    data = bytes(range(256)) * 400
    path.write_bytes(gzip.compress(data, 0)[:-cut])
    for _ in range(2):
        plain, damage = compressed.plain(str(path), str(tmp_path / "unpacked"))
        with open(plain, "rb") as stream:
            assert data.startswith(stream.read(len(data) - 400))
        assert "is damaged behind " in damage


def test_a_bomb_is_not_unpacked_to_its_end(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(bytes(200 << 20), 9))
    plain, damage = compressed.plain(str(path), str(tmp_path / "unpacked"))
    assert "is it a decompression bomb?" in damage
    with open(plain, "rb") as stream:
        assert stream.seek(0, 2) <= 64 << 20


def test_a_file_that_is_gone_is_an_error_of_the_disk(tmp_path):
    with pytest.raises(OSError, match="no file"):
        compressed.plain(str(tmp_path / "x.gz"), str(tmp_path))


class Line(io.RawIOBase):
    """A stream from a store whose line breaks behind so many bytes."""

    def __init__(self, data, num_bytes, error):
        self._data, self._error = io.BytesIO(data[:num_bytes]), error

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, *arguments):
        return self._data.seek(*arguments)

    def readinto(self, buffer):
        num_bytes = self._data.readinto(buffer)
        if not num_bytes:
            raise self._error
        return num_bytes


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError("timed out"),
        requests.ConnectionError("the connection was closed"),
        object_stores._S3ClientError("Service Unavailable", 503),
    ],
)
@pytest.mark.parametrize(("suffix", "compress"), SUFFIXES)
def test_a_line_that_breaks_is_no_damage_and_the_next_attempt_reads_on(
    tmp_path, monkeypatch, suffix, compress, error
):
    path, unpacked = tmp_path / f"x{suffix}", tmp_path / "unpacked"
    data = os.urandom(200_000)
    path.write_bytes(compress(data))
    with monkeypatch.context() as patch:
        line = Line(path.read_bytes(), 120_000, error)
        patch.setattr(storage, "open_to_read", lambda path: line)
        with pytest.raises(type(error)):
            compressed.plain(str(path), str(unpacked))
    assert not list(unpacked.iterdir())
    plain, damage = compressed.plain(str(path), str(unpacked))
    with open(plain, "rb") as stream:
        assert (stream.read(), damage) == (data, "")


def test_a_server_that_falls_silent_is_no_damage(tmp_path, monkeypatch):
    path, unpacked = tmp_path / "x.gz", tmp_path / "unpacked"
    path.write_bytes(gzip.compress(os.urandom(20_000)))
    server, client = socket.socketpair()
    with server, client, client.makefile("rb") as stream:
        server.sendall(path.read_bytes()[:12_000])
        client.settimeout(0.05)
        monkeypatch.setattr(storage, "open_to_read", lambda path: stream)
        with pytest.raises(TimeoutError):
            compressed.plain(str(path), str(unpacked))
    assert not list(unpacked.iterdir())


@pytest.mark.parametrize(
    ("name", "source"), [("0.tar.gz", WebDataset), ("0.tfrecord.gz", TFRecord)]
)
def test_a_line_that_breaks_while_the_first_rows_are_looked_at_is_told(
    tmp_path, monkeypatch, name, source
):
    path = tmp_path / name
    path.write_bytes(gzip.compress(os.urandom(20_000)))
    line = Line(path.read_bytes(), 100, TimeoutError("timed out"))
    monkeypatch.setattr(storage, "open_to_read", lambda path: line)
    with pytest.raises(TimeoutError, match="timed out"):
        source(SourceOptions(name, images=str(path))).inventory()
