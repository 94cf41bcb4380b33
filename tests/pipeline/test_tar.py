import bz2
import gzip
import io
import lzma
import random
import shutil
import subprocess
import tarfile

import pytest

from pipeline import tar

FILES = {"a.jpg": b"first", "folder/b.json": b"{}" * 700, "empty": b"", "c.txt": b"x" * 512}


def write_tar(path, files=FILES, format=tarfile.USTAR_FORMAT):
    with tarfile.open(path, "w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read_all(path, unpacked_dir="unused"):
    """The members by name, with their bytes, and what is wrong with the archive."""
    found = {}
    with tar.Archive(str(path), str(unpacked_dir)) as archive:
        try:
            for member in archive.members():
                found[member.name] = archive.read(member)
        except tar.TarError as error:
            return found, str(error)
    return found, ""


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_lie_where_their_headers_say(tmp_path, format):
    path = write_tar(tmp_path / "a.tar", format=format)
    assert read_all(path) == (FILES, "")
    with tar.Archive(str(path), "unused") as archive, open(path, "rb") as plain:
        for member in archive.members():
            plain.seek(member.offset)
            assert plain.read(member.length) == FILES[member.name]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_beyond_ascii_are_whole(tmp_path, format):
    files = {f"{'f' * 150}/{'ü' * 200}.jpg": b"1", "kurz-ä.jpg": b"2", "z" * 99: b"3"}
    assert read_all(write_tar(tmp_path / "a.tar", files, format)) == (files, "")


def test_only_regular_files_below_the_archive_are_members(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in [
            ("folder", tarfile.DIRTYPE),
            ("soft.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("null", tarfile.CHRTYPE),
            ("pipe", tarfile.FIFOTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        for name in ("../up.jpg", "/root.jpg", "a/../../b.jpg", "./fine.jpg", "a..b/fine.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"hi"))
    assert read_all(path) == ({"fine.jpg": b"hi", "a..b/fine.jpg": b"hi"}, "")


@pytest.mark.parametrize("format", ["gnu", "posix"])
@pytest.mark.skipif(not shutil.which("tar"), reason="needs the command tar")
def test_sparse_files_are_passed_over_and_what_follows_is_found(tmp_path, format):
    with open(tmp_path / "hole", "wb") as stream:
        for place in range(30):  # more pieces than a header has room for
            stream.seek(place << 16)
            stream.write(b"data")
        stream.truncate(1 << 21)
    (tmp_path / "next.jpg").write_bytes(b"next")
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / ("n" * 120)).write_bytes(b"last")
    command = ["tar", f"--format={format}", "--sparse", "-cf", "a.tar", "hole", "next.jpg", "long"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found, damage = read_all(tmp_path / "a.tar")
    assert damage == ""
    assert found == {"next.jpg": b"next", f"long/{'n' * 120}": b"last"}


def test_a_member_of_nine_gigabytes_is_skipped_not_read(tmp_path):
    path = tmp_path / "a.tar"
    length = 9 << 30  # more than twelve octal digits of a header can say
    info = tarfile.TarInfo("huge")
    info.size = length
    with open(path, "wb") as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        stream.seek(512 + length)
        stream.write(tarfile.TarInfo("next.jpg").tobuf() + bytes(1024))
    with tar.Archive(str(path), "unused") as archive:
        assert list(archive.members()) == [("huge", 512, length), ("next.jpg", length + 1024, 0)]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".tar.gz", gzip.compress), (".tgz", gzip.compress), (".tar.bz2", bz2.compress),
     (".tar.xz", lzma.compress)],
)  # fmt: skip
def test_a_compressed_archive_is_unpacked_once(tmp_path, suffix, compress):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(compress(write_tar(tmp_path / "a.tar").read_bytes()))
    unpacked_dir = tmp_path / "out" / "unpacked"
    assert read_all(path, unpacked_dir) == (FILES, "")
    (plain,) = unpacked_dir.iterdir()
    before = plain.stat()
    with tar.Archive(str(path), str(unpacked_dir)) as archive:
        assert archive.path == str(plain)
    assert (plain.stat().st_ino, plain.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_members_before_a_cut_are_found_and_the_cut_is_told(tmp_path):
    whole = write_tar(tmp_path / "a.tar").read_bytes()
    end = 512 * (2 + 1 + 3 + 1 + 2)  # headers and data of the members
    cut = tmp_path / "cut.tar"
    for length in range(0, len(whole) + 1, 128):
        cut.write_bytes(whole[:length])
        found, damage = read_all(cut)
        assert list(found.items()) == list(FILES.items())[: len(found)]
        assert bool(damage) == (length < end + 512)
        if length >= end:
            assert found == FILES


def test_what_is_no_tar_archive_is_told(tmp_path):
    path = tmp_path / "a.tar"
    for data, damage in [(b"", "it is empty"), (b"\x89PNG" * 500, "it is no tar archive")]:
        path.write_bytes(data)
        assert read_all(path) == ({}, damage)


def test_a_second_archive_behind_the_first_is_not_lost_in_silence(tmp_path):
    path = write_tar(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes() * 2)
    found, damage = read_all(path)
    assert found == FILES
    assert damage.startswith("more data behind the end of the archive at byte 4608")


def test_what_can_be_read_of_a_damaged_gz_is_kept_and_the_damage_told_each_time(tmp_path):
    data = {f"{i}.jpg": random.Random(i).randbytes(20_000) for i in range(10)}
    whole = gzip.compress(write_tar(tmp_path / "a.tar", data).read_bytes())
    wrong_sum = bytearray(whole)
    wrong_sum[-8] ^= 1
    for name, damaged, num_left in [
        ("cut", whole[: len(whole) // 2], range(3, 6)),
        ("sum", bytes(wrong_sum), range(10, 11)),
    ]:
        path = tmp_path / f"{name}.tar.gz"
        path.write_bytes(damaged)
        for _ in range(2):
            found, damage = read_all(path, tmp_path / "unpacked")
            assert found.items() <= data.items()
            assert len(found) in num_left
            assert damage


def test_a_decompression_bomb_ends_at_a_cap(tmp_path):
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb") as stream:
        info = tarfile.TarInfo("zeros")
        info.size = 200 << 20
        stream.write(info.tobuf())
        for _ in range(200):
            stream.write(bytes(1 << 20))
    found, damage = read_all(bomb, tmp_path / "unpacked")
    assert found == {}
    assert damage
    assert sum(path.stat().st_size for path in (tmp_path / "unpacked").iterdir()) < 70 << 20


def test_whatever_the_bytes_only_tar_errors_are_raised(tmp_path):
    path = tmp_path / "a.tar"
    names = {"a.jpg": b"1" * 600, "n" * 150: b"2" * 10, "ü" * 80: b"3"}
    for seed in range(600):
        chance = random.Random(seed)
        data = bytearray(write_tar(path, names, chance.choice([1, 2])).read_bytes()[:8192])
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(data))
            if chance.random() < 0.5:  # in a size or type, with the right sum
                place = chance.randrange(len(data) // 512) * 512 + chance.randrange(124, 157)
            data[place] = chance.randrange(256)
            start = place // 512 * 512
            head = data[start : start + 512]
            head[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(head)
        path.write_bytes(data)
        with tar.Archive(str(path), "unused") as archive:
            try:
                members = list(archive.members())
            except tar.TarError:
                continue
        assert all(0 <= m.offset <= m.offset + m.length <= len(data) for m in members)
