"""Shards of an object store, read through a folder of bounded size that a host's processes share.

TensorFlow reads local files alone. So the dataset hands each shard's address to `local_path`,
inside the process that reads, and goes on with the path of a verified copy.

    CACHE/<sha256>             a whole shard, by its content
    CACHE/<sha256>.partial     one that is being fetched, as long as it will be
    CACHE/lock                 held while room is made, and while a partial file becomes a whole one

A copy's sha256 is checked each time that it is asked for: one that a reset of the host left full of
zeros, or that its disk damaged, is fetched anew. So nothing waits until the disk has a file.

Who fetches a file has it locked; who reads it holds a shared lock, for the last NUM_OPEN shards
that a process asked for. Locks end with their process, however that ends: what is unlocked may go,
the least recently used first, and a partial file of nobody is written anew.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import random
import re
import tempfile
import threading
import time
from pathlib import Path

import fsspec  # type: ignore[import-untyped]

from pipeline import metadata

NUM_FETCHES = 4  # shards that a process fetches at once
NUM_READ = 8  # shards that it reads at once
NUM_OPEN = NUM_FETCHES + NUM_READ + 1  # and one that is being opened

_CHUNK = 8 << 20  # bytes that are asked for at once
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 20.0  # seconds between attempts
_POLL = 0.1  # seconds between looks at what another process holds
_NAME = re.compile(r"[0-9a-f]{64}")


class FetchError(Exception):
    """A store that does not give a shard; starting again may help (exit code 75)."""


class CacheError(Exception):
    """A shard that cannot be read through this cache, however often it is tried (exit code 2)."""


def default_folder():
    """Where copies lie if input.cache_dir names nothing: a folder of this host's user."""
    return os.path.join(tempfile.gettempdir(), f"shard-cache-{os.getuid()}")


def error_in(message):
    """The FetchError or CacheError that an error of TensorFlow tells of; None if of neither."""
    found = re.search(r"\b(FetchError|CacheError): (.*)", message)
    return found and {"FetchError": FetchError, "CacheError": CacheError}[found[1]](found[2])


class ShardCache:
    """Verified local copies of shards.

    Args:
        folder: of this host; other processes may use it at the same time.
        max_bytes: what all files of the folder may have together.
        timeout: seconds after which a shard that has not come is given up.
    """

    def __init__(self, folder, max_bytes, timeout):
        self._folder, self._max_bytes, self._timeout = Path(folder), max_bytes, timeout
        self._held = {}  # name -> descriptor with a lock, the one asked for last at the end
        self._commits = {}  # address -> (sha256, bytes)
        self._lock = threading.Lock()  # of both
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{folder} cannot be made: {error}. Set input.cache_dir.") from error
        if self._folder.stat().st_uid != os.getuid():
            raise CacheError(
                f"{folder} belongs to another user, who could put other shards there. Name a "
                "folder of your own: input.cache_dir."
            )

    def local_path(self, address):
        """The path of a whole copy that stays until NUM_OPEN others have been asked for.

        Raises FetchError or CacheError.
        """
        deadline = time.monotonic() + self._timeout
        try:
            name, size = self._commit(address, deadline)
            if size > self._max_bytes:
                raise self._too_small(address, size)
            while True:
                self._folder.mkdir(exist_ok=True)  # somebody may have tidied up
                file = self._shared(name)
                if file is None:
                    file = self._fetched(address, name, size, deadline)
                if file is not None:
                    self._hold(name, file)
                    return str(self._folder / name)
                self._wait(_POLL, deadline, f"{address}: another process has it locked")
        except OSError as error:
            raise FetchError(f"{address} cannot be kept in {self._folder}: {error}") from error

    def _shared(self, name):
        """The copy with a shared lock; None where there is none, or was a damaged one."""
        path = self._folder / name
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        fcntl.flock(file, fcntl.LOCK_SH)
        is_whole = _has_sha256(file, name)
        with self._alone():
            is_there = _is_at(file, path)  # or evicted just before
            if is_there and not is_whole:
                path.unlink()
        if not (is_there and is_whole):
            os.close(file)
            return None
        os.utime(file)  # how recently it was used
        return file

    def _fetched(self, address, name, size, deadline):
        """Fetches the copy; it with a shared lock, or None where another process is at it."""
        partial = self._folder / f"{name}.partial"
        file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, partial):  # whole by now, or evicted
                raise BlockingIOError
            if (self._folder / name).exists():  # and was when this one was made
                partial.unlink()
                raise BlockingIOError
            self._reserve(file, address, size, deadline)
            self._try_to(deadline, address, _Download(address, partial, name, size))
            with self._alone():
                os.rename(partial, self._folder / name)
            fcntl.flock(file, fcntl.LOCK_SH)
            if not _is_at(file, self._folder / name):
                raise BlockingIOError
        except BlockingIOError:
            os.close(file)
            return None
        except BaseException:
            # Only its owner takes it away; without one it is evicted like any other.
            if _is_at(file, partial):
                partial.unlink()
            os.close(file)
            raise
        return file

    def _reserve(self, file, address, size, deadline):
        """Makes room for the file, and makes it as long as it will be: others count it."""
        while True:
            with self._alone():
                os.ftruncate(file, 0)
                if self._make_room(size):
                    os.ftruncate(file, size)
                    return
            with self._lock:
                held = sum(os.fstat(held).st_size for held in self._held.values())
            if held + size > self._max_bytes:
                raise self._too_small(address, size)
            doing = f"{address}: {self._folder} is full of what other processes of this host read"
            self._wait(_POLL, deadline, doing)

    @contextlib.contextmanager
    def _alone(self):
        """While no other process makes room or gives a file its name: one can count."""
        with open(self._folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, size):
        """Whether `size` bytes more fit, once what nobody has locked is gone as far as need be."""
        files = []  # (last use, bytes, path)
        for path in self._folder.iterdir():
            if _NAME.match(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process's, given up
                    found = path.stat()
                    files.append((found.st_mtime, found.st_size, path))
        excess = sum(num_bytes for _, num_bytes, _ in files) + size - self._max_bytes
        for _, num_bytes, path in sorted(files):
            if excess <= 0:
                break
            if num_bytes and _evict(path):
                excess -= num_bytes
        return excess <= 0

    def _hold(self, name, file):
        """Keeps the lock, and lets go of the one that was asked for longest ago."""
        with self._lock:
            gone = [self._held.pop(name)] if name in self._held else []
            self._held[name] = file
            if len(self._held) > NUM_OPEN:
                gone.append(self._held.pop(next(iter(self._held))))
        for file in gone:
            os.close(file)

    def _commit(self, address, deadline):
        """(sha256, bytes) of a shard, as the pipeline noted them."""
        with self._lock:
            known = self._commits.get(address)
        if known is None:
            path = metadata.shard_commit(address)
            text = self._try_to(deadline, path, lambda: _file_system(path).cat_file(path))
            try:
                commit = json.loads(text)
                known = commit["sha256"], int(commit["num_bytes"])
                if not _NAME.fullmatch(known[0]):
                    raise ValueError("no sha256")
            except (ValueError, KeyError, TypeError) as error:
                raise CacheError(f"{path} is damaged: write the split again") from error
            with self._lock:
                self._commits[address] = known
        return known

    def _try_to(self, deadline, address, function):
        """What `function` returns, tried again until the deadline where the store fails."""
        wait = _FIRST_WAIT
        while True:
            try:
                return self._answer(deadline, address, function)
            except FileNotFoundError as error:
                raise CacheError(f"{address} is gone from the store") from error
            except (ImportError, PermissionError) as error:
                raise CacheError(f"{address} cannot be read: {error}") from error
            except (CacheError, FetchError):
                raise
            except Exception as error:  # stores have errors of their libraries'
                what = f"{address}: {type(error).__name__}: {error}"
                self._wait(wait * random.uniform(0.5, 1.0), deadline, what)
                wait = min(2 * wait, _LONGEST_WAIT)

    def _answer(self, deadline, address, function):
        """What `function` returns; FetchError at the deadline, where it is left to itself.

        Stores' clients can wait without end. A thread that does so ends with its process.
        """
        answer: concurrent.futures.Future = concurrent.futures.Future()

        def ask():
            try:
                answer.set_result(function())
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name=f"asks for {address}", daemon=True).start()
        done, _ = concurrent.futures.wait([answer], max(0.0, deadline - time.monotonic()))
        if not done:
            self._wait(_POLL, deadline, f"{address}: the store does not answer")
        return answer.result()

    def _wait(self, seconds, deadline, doing):
        left = deadline - time.monotonic()
        if seconds > left:
            raise FetchError(
                f"Given up after {self._timeout - left:.1f} s (input.fetch_timeout is "
                f"{self._timeout:g}): {doing}"
            )
        time.sleep(seconds)

    def _too_small(self, address, size):
        return CacheError(
            f"input.cache_bytes={self._max_bytes:,} has no room for {address} with its {size:,} "
            f"bytes beside what this process reads: it has up to {NUM_OPEN} shards open. Set it to "
            f"{NUM_OPEN + 1} shards or more for each process of a host."
        )


class _Download:
    """Fetches a shard into a file and checks it, each time that it is called."""

    def __init__(self, address, path, sha256, size):
        self._address, self._path, self._sha256, self._size = address, path, sha256, size
        self._found = None  # the wrong sha256 that came before

    def __call__(self):
        digest, position = hashlib.sha256(), 0
        file_system = _file_system(self._address)
        # Opened here: a call that is left to itself has no descriptor that others close.
        with (
            open(self._path, "r+b") as file,
            file_system.open(self._address, "rb", block_size=_CHUNK) as source,
        ):
            while position <= self._size and (chunk := source.read(_CHUNK)):
                digest.update(chunk)
                position += file.write(chunk)
            file.truncate(self._size)  # what came too much is not kept
        if position < self._size:
            raise OSError(f"{position:,} of {self._size:,} bytes came")
        found = digest.hexdigest()
        if found != self._sha256 or position > self._size:
            if found == self._found:
                raise CacheError(
                    f"{self._address} is not what the pipeline wrote: its sha256 is {found}, and "
                    f"its commit says {self._sha256}. Write the split again."
                )
            self._found = found
            raise OSError(f"what came has sha256 {found}")


def _file_system(address):
    """The file system of an address; what it has listed once may have changed."""
    file_system = fsspec.core.url_to_fs(address)[0]
    file_system.invalidate_cache()
    return file_system


def _has_sha256(file, wanted):
    """Whether this is the hash of an open file, all of which can be read."""
    try:
        with open(file, "rb", buffering=0, closefd=False) as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == wanted
    except OSError:
        return False


def _is_at(file, path):
    """Whether an open file is the one that lies at the path now."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _evict(path):
    """Takes a file away unless somebody has it locked; whether it is gone."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
    return True
