import bz2
import gzip
import lzma

import pytest

from pipeline import compressed


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
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
