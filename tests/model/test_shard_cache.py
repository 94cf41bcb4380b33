"""Copies of remote shards: verified, within their bound, shared, and sound after any death."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from benchmarks.object_store import taken
from model.shard_cache import NUM_OPEN, CacheError, FetchError, ShardCache, error_in

SIZE = 1000  # bytes of a shard


class Store:
    """Shards in this process's memory, with the commits that the pipeline writes."""

    def __init__(self, name, count):
        self.folder = f"memory://{name}"
        self.data = [bytes([number]) * SIZE for number in range(count)]
        self.addresses = [
            f"{self.folder}/images-train.tfrecord-{number:05d}-of-{count:05d}"
            for number in range(count)
        ]
        for number, data in enumerate(self.data):
            commit = {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": SIZE}
            place = f"{self.folder}/commits/train/{number:05d}-of-{count:05d}.json"
            self._write(place, json.dumps(commit).encode())
            self.put(number, data)

    def put(self, number, data):
        self._write(self.addresses[number], data)

    def name(self, number):
        return hashlib.sha256(self.data[number]).hexdigest()

    def _write(self, path, data):
        with fsspec.open(path, "wb") as file:
            file.write(data)


@pytest.fixture
def store(request):
    return Store(request.node.name, 30)


def _names(folder):
    return {path.name for path in folder.iterdir()} - {"lock"}


def test_a_copy_is_what_the_store_holds_and_is_fetched_once(store, tmp_path):
    cache = ShardCache(tmp_path, 20 * SIZE, timeout=5)
    path = cache.local_path(store.addresses[3])
    assert Path(path).read_bytes() == store.data[3]
    store.put(3, b"another")
    assert cache.local_path(store.addresses[3]) == path
    assert ShardCache(tmp_path, 20 * SIZE, timeout=5).local_path(store.addresses[3]) == path
    assert _names(tmp_path) == {store.name(3)}


def _fill_with_zeros(path):
    """What a reset of the host leaves of a file that was never written to its disk."""
    path.write_bytes(b"")
    os.truncate(path, SIZE)


def _flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[SIZE // 2] ^= 1
    path.write_bytes(data)


def _lose_a_sector(path):
    """Reads fail with EIO: nothing is mapped at address 0."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize("damage", [_fill_with_zeros, _flip_a_bit, _lose_a_sector])
def test_a_copy_that_this_host_damages_is_fetched_anew(store, tmp_path, damage):
    before, after = (ShardCache(tmp_path, 20 * SIZE, timeout=5) for _ in range(2))
    path = before.local_path(store.addresses[3])
    for cache in (before, after):  # a process that has read it, and one that starts
        damage(Path(path))
        assert cache.local_path(store.addresses[3]) == path
        assert Path(path).read_bytes() == store.data[3]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"file/cache cannot be made: .* Set input\.cache_dir\."):
        ShardCache(tmp_path / "file/cache", 20 * SIZE, timeout=5)


def test_a_folder_that_somebody_deletes_is_made_anew(store, tmp_path):
    cache = ShardCache(tmp_path / "cache", 20 * SIZE, timeout=5)
    for _ in range(2):
        assert Path(cache.local_path(store.addresses[0])).exists()
        shutil.rmtree(tmp_path / "cache")


def test_the_least_recently_used_copies_go_and_the_bound_holds(store, tmp_path):
    cache = ShardCache(tmp_path, 20 * SIZE, timeout=5)
    for number in range(20):
        cache.local_path(store.addresses[number])
        os.utime(tmp_path / store.name(number), ns=(0, number))  # as if each took a while
    cache.local_path(store.addresses[2])  # used again
    for number in (20, 21, 22):
        cache.local_path(store.addresses[number])
    left = set(range(23)) - {0, 1, 3}
    assert _names(tmp_path) == {store.name(number) for number in left}


def test_a_bound_below_what_one_process_reads_is_refused_with_what_it_needs(store, tmp_path):
    cache = ShardCache(tmp_path, 5 * SIZE, timeout=30)
    for number in range(5):
        cache.local_path(store.addresses[number])
    with pytest.raises(CacheError, match=r"cache_bytes=5,000 has no room .* to 14 shards or more"):
        cache.local_path(store.addresses[5])
    with pytest.raises(CacheError, match="cache_bytes=999 has no room"):
        ShardCache(tmp_path / "tiny", SIZE - 1, timeout=30).local_path(store.addresses[5])


def test_a_download_that_is_cut_off_is_found_and_given_up_in_the_end(store, tmp_path):
    store.put(0, store.data[0][:-1])
    cache = ShardCache(tmp_path, 20 * SIZE, timeout=0.7)
    what = rf"Given up after 0\.\d s .*: {store.addresses[0]}: OSError: 999 of 1,000 bytes came"
    with pytest.raises(FetchError, match=what):
        cache.local_path(store.addresses[0])
    assert _names(tmp_path) == set()
    store.put(0, store.data[0])
    cache.local_path(store.addresses[0])


@pytest.mark.parametrize("data", [b"x" * SIZE, bytes([0]) * (SIZE + 1)])
def test_a_shard_that_is_another_on_a_second_reading_too_is_refused(store, tmp_path, data):
    store.put(0, data)
    what = re.escape(f"{store.addresses[0]} is not what the pipeline wrote")
    with pytest.raises(CacheError, match=what):
        ShardCache(tmp_path, 20 * SIZE, timeout=30).local_path(store.addresses[0])
    assert _names(tmp_path) == set()


def test_a_shard_or_commit_that_is_gone_is_named(store, tmp_path):
    cache = ShardCache(tmp_path, 20 * SIZE, timeout=30)
    fsspec.filesystem("memory").rm(store.addresses[0])
    with pytest.raises(CacheError, match=f"{store.addresses[0]} is gone from the store"):
        cache.local_path(store.addresses[0])
    fsspec.filesystem("memory").rm(f"{store.folder}/commits", recursive=True)
    with pytest.raises(CacheError, match=r"commits/train/00001-of-00030\.json is gone"):
        cache.local_path(store.addresses[1])


@pytest.mark.parametrize("commit", ['{"sha256": "../x", "num_bytes": 1}', '{"sha256"', "[]"])
def test_a_commit_that_names_no_content_is_refused(store, tmp_path, commit):
    place = f"{store.folder}/commits/train/00000-of-00030.json"
    fsspec.filesystem("memory").pipe_file(place, commit.encode())
    with pytest.raises(CacheError, match=r"00000-of-00030\.json is damaged"):
        ShardCache(tmp_path, 20 * SIZE, timeout=5).local_path(store.addresses[0])


def test_what_may_not_or_cannot_be_read_is_refused_at_once(store, tmp_path, monkeypatch):
    def refuse(file_system, path, **options):
        raise PermissionError("Forbidden")  # what s3fs makes of a 403

    cache = ShardCache(tmp_path, 20 * SIZE, timeout=3600)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(CacheError, match=r"commits/train/00000-of-.* cannot be read: Forbidden"):
        cache.local_path(store.addresses[0])
    nobody_has = "dropbox://bucket/images-train.tfrecord-00000-of-00001"  # the package for it
    with pytest.raises(CacheError, match=r"cannot be read: .*dropbox"):
        cache.local_path(nobody_has)


@pytest.mark.parametrize("call", ["cat_file", "_open"])  # of the commit, of the shard
def test_a_store_that_never_answers_is_given_up_and_leaves_nothing(
    store, tmp_path, monkeypatch, call
):
    ends = threading.Event()
    answers = getattr(MemoryFileSystem, call)

    def hang(*arguments, **options):
        ends.wait()
        return answers(*arguments, **options)

    cache = ShardCache(tmp_path, 20 * SIZE, timeout=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, call, hang)
        with pytest.raises(FetchError, match=r"after 0\.\d s .*: the store does not answer"):
            cache.local_path(store.addresses[0])
    assert _names(tmp_path) == set()
    path = cache.local_path(store.addresses[0])
    ends.set()  # what comes too late is nobody's
    for thread in threading.enumerate():
        if thread.name.startswith("asks for"):
            thread.join(5.0)
    assert Path(path).read_bytes() == store.data[0]
    assert _names(tmp_path) == {store.name(0)}


def test_what_tensorflow_makes_of_the_errors_is_turned_back():
    told = "Error in user-defined function: FetchError: s3://b/x: no\nTraceback\n FetchError: other"
    assert str(error_in(told)) == "s3://b/x: no"
    assert isinstance(error_in(told), FetchError)
    assert isinstance(error_in("CacheError: s3://b/x is gone"), CacheError)
    assert error_in("OSError: another") is None


_FETCH = """
import sys
from model.shard_cache import ShardCache
cache = ShardCache(sys.argv[1], int(sys.argv[2]), timeout=60)
for address in sys.argv[3:]:
    with open(cache.local_path(address), "rb") as file:
        assert file.read(1)
print("fetched", flush=True)
sys.stdin.read()
"""


def _process(folder, max_bytes, *addresses):
    """A process that fetches these one after the other, and ends when its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", _FETCH, str(folder), str(max_bytes), *addresses],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _end(*processes):
    for process in processes:
        process.communicate(timeout=30)
        assert process.returncode == 0


def _on_disk(folder, count, size):
    """Addresses of shards of random bytes in a folder, as a store that processes share."""
    (folder / "commits/train").mkdir(parents=True)
    addresses = []
    for number in range(count):
        data = os.urandom(size)
        path = folder / f"images-train.tfrecord-{number:05d}-of-{count:05d}"
        path.write_bytes(data)
        commit = {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": size}
        (folder / f"commits/train/{number:05d}-of-{count:05d}.json").write_text(json.dumps(commit))
        addresses.append(path.as_uri())
    return addresses


def test_what_a_process_reads_stays_whatever_another_one_needs(tmp_path):
    addresses, cache = _on_disk(tmp_path / "store", 30, SIZE), tmp_path / "cache"
    reader = _process(cache, 14 * SIZE, *addresses[:NUM_OPEN])
    assert reader.stdout.readline() == "fetched\n"
    before = _names(cache)
    assert len(before) == NUM_OPEN
    other = ShardCache(cache, 14 * SIZE, timeout=0.5)
    other.local_path(addresses[20])  # there is room for one more
    with pytest.raises(FetchError, match=r"after 0\.\d s .* is full of what other processes"):
        other.local_path(addresses[21])
    assert _names(cache) > before
    _end(reader)
    other.local_path(addresses[21])
    assert len(_names(cache)) == 14
    assert not _names(cache) > before


def test_processes_that_share_a_folder_stay_within_its_bound_together(tmp_path):
    addresses, size, cache = _on_disk(tmp_path / "store", 60, 100_000), 100_000, tmp_path / "cache"
    bound = 2 * (NUM_OPEN + 1) * size
    processes = [_process(cache, bound, *addresses), _process(cache, bound, *reversed(addresses))]
    for process in processes:
        process.stdin.close()
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, taken(cache))
    for process in processes:
        process.stdout.close()
    assert [process.returncode for process in processes] == [0, 0]
    assert bound - size <= most <= bound
    assert not list(cache.glob("*.partial"))


def test_a_process_that_is_killed_while_it_fetches_leaves_nothing_wrong(tmp_path):
    (address,) = _on_disk(tmp_path / "store", 1, SIZE)
    shard, cache = tmp_path / "store/images-train.tfrecord-00000-of-00001", tmp_path / "cache"
    data = shard.read_bytes()
    shard.unlink()
    os.mkfifo(shard)  # of which half comes
    process = _process(cache, 2 * SIZE, address)
    with open(shard, "wb", buffering=0) as half:
        half.write(data[: SIZE // 2])
        deadline = time.monotonic() + 30
        while not list(cache.glob("*.partial")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    (partial,) = cache.glob("*.partial")
    shard.unlink()
    shard.write_bytes(data)
    path = ShardCache(cache, 2 * SIZE, timeout=5).local_path(address)
    assert Path(path).read_bytes() == data
    assert not partial.exists()
