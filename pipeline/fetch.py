"""An image's bytes by its URI: a local path, http(s), or anything that Beam's FileSystems opens.

`PATH#OFFSET+LENGTH` names bytes that lie inside another file: a member of an archive, the payload
of a record. Remote images are read ahead by threads, since they cost waiting and no work; local
ones in the caller's thread, since they cost no waiting.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import os
import random
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from pipeline import storage, web
from pipeline.images import MAX_FILE_BYTES, ImageError
from pipeline.read_ahead import in_order

NUM_THREADS = 32
_STORE_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.5
_MAX_OPEN_FILES = 32
_TAIL_BYTES = 4096
_REFERENCE = re.compile(r"(.+)#([0-9]{1,18})\+([0-9]{1,18})", re.DOTALL)

_Result = TypeVar("_Result")


def reference(path: str, offset: int, length: int) -> str:
    """The URI of bytes that lie inside another file."""
    return f"{path}#{offset}+{length}"


def resolve(images: str, uri: str) -> str:
    """The address of `uri`: absolute paths and URIs stand as they are, others are below `images`.

    A label file is trusted: it may name any file that the job can read, `..` included.
    """
    uri = storage.without_file_scheme(uri)
    if "://" in uri or os.path.isabs(uri):
        return uri
    return f"{images.rstrip('/')}/{uri}" if images.rstrip("/") else f"{images}{uri}"


def content_key(data: bytes) -> str:
    """NUM_BYTES-HEX: what tells an image file's content well enough to find equal ones."""
    return _key(len(data), data[-_TAIL_BYTES:])


def _key(num_bytes: int, tail: bytes) -> str:
    return f"{num_bytes}-{hashlib.blake2b(tail, digest_size=16).hexdigest()}"


class Fetcher:
    """Reads images by their URIs. What it opens it opens at first use, and does not pickle."""

    def __init__(
        self,
        images: str,
        allowed_hosts: tuple[str, ...] = (),
        patience: web.Patience | None = None,
    ) -> None:
        """`images`: what relative URIs stand below.

        `allowed_hosts`: "host:port" of http servers that may have a private address.
        """
        self._images = images
        self._allowed_hosts = allowed_hosts
        self._patience = patience or web.Patience()
        self._files = _LocalFiles()
        self._client: web.WebClient | None = None
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[type["Fetcher"], tuple[object, ...]]:
        return Fetcher, (self._images, self._allowed_hosts, self._patience)

    def fetch(self, uri: str, checksum: str = "") -> bytes:
        """The bytes of an image; raises ImageError.

        `checksum`: "md5:HEX" or "sha256:HEX" that they must have.
        """
        return self._fetch((uri, checksum), threading.Event())

    def probe(self, uri: str) -> str:
        """The content_key of an image, without reading all of it; raises ImageError."""
        return self._probe(uri, threading.Event())

    def fetch_all(self, wanted: Iterable[tuple[str, str]]) -> Iterator[bytes | ImageError]:
        """What fetch(uri, checksum) returns or raises, in order; remote images ahead of time."""
        return in_order(self._fetch, wanted, lambda item: self._pool_for(item[0]), ImageError)

    def probe_all(self, uris: Iterable[str]) -> Iterator[str | ImageError]:
        """What probe(uri) returns or raises, in order; remote images ahead of time."""
        return in_order(self._probe, uris, self._pool_for, ImageError)

    def _fetch(self, item: tuple[str, str], stopped: threading.Event) -> bytes:
        uri, checksum = item
        address = resolve(self._images, uri)
        data = self._read(address, stopped)
        found = _checksum(data, checksum)
        if found != checksum and not storage.is_local(address):
            data = self._read(address, stopped)  # the line may be to blame
            found = _checksum(data, checksum)
        if found != checksum:
            name = web.without_password(address)
            raise ImageError("checksum_mismatch", f"{name}: {found}, expected {checksum}")
        return data

    def _read(self, address: str, stopped: threading.Event) -> bytes:
        path, offset, length = _parse(address)
        if storage.is_local(path):
            data = self._files.read(path, offset, length)
        elif not _is_web(path):
            data = _with_retries(
                functools.partial(_read_stored, path, offset, length), path, stopped
            )
        elif length is None:
            data = self._web().get(path, stopped=stopped).body
        else:
            data = self._web().part(path, offset, length, stopped) if length else b""
        if len(data) > MAX_FILE_BYTES:
            raise _too_many_bytes(address)
        if length is not None and len(data) < length:
            detail = f"the file ends {length - len(data)} bytes before the image does"
            raise ImageError("unreadable", f"{web.without_password(address)}: {detail}")
        return data

    def _probe(self, uri: str, stopped: threading.Event) -> str:
        address = resolve(self._images, uri)
        path, offset, length = _parse(address)
        if length is not None:
            skipped = max(0, length - _TAIL_BYTES)
            tail = self._read(reference(path, offset + skipped, length - skipped), stopped)
            num_bytes = length
        elif storage.is_local(path):
            num_bytes, tail = self._files.tail(path, _TAIL_BYTES)
        elif _is_web(path):
            num_bytes, tail = self._web().tail(path, _TAIL_BYTES, stopped)
        else:
            num_bytes, tail = _with_retries(
                functools.partial(_stored_tail, path, _TAIL_BYTES), path, stopped
            )
        if num_bytes > MAX_FILE_BYTES:
            raise _too_many_bytes(path)
        return _key(num_bytes, tail)

    def _web(self) -> web.WebClient:
        if self._client is None:
            self._client = web.WebClient(self._allowed_hosts, self._patience)
        return self._client

    def _pool_for(self, uri: str) -> concurrent.futures.Executor | None:
        """The threads that read a remote image; None for a local one."""
        if storage.is_local(resolve(self._images, uri)):
            return None
        if self._threads is None:
            self._threads = concurrent.futures.ThreadPoolExecutor(NUM_THREADS, "fetch")
        return self._threads


class _LocalFiles:
    """Local files; those that hold many images are kept open."""

    def __init__(self) -> None:
        self._open: collections.OrderedDict[str, int] = collections.OrderedDict()

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, path: str, offset: int, length: int | None) -> bytes:
        """The bytes of a file, or so many of them from an offset; raises ImageError."""
        with _told_as_image_error(path):
            if length is not None:
                return os.pread(self._descriptor(path), length, offset)
            descriptor = _open_regular(path)
            with open(descriptor, "rb", buffering=0) as stream:
                if os.fstat(descriptor).st_size > MAX_FILE_BYTES:
                    raise _too_many_bytes(path)
                return stream.read()

    def tail(self, path: str, length: int) -> tuple[int, bytes]:
        """The length of a file and its last bytes; raises ImageError."""
        with _told_as_image_error(path):
            descriptor = _open_regular(path)
            with open(descriptor, "rb", buffering=0) as stream:
                num_bytes = os.fstat(descriptor).st_size
                stream.seek(max(0, num_bytes - length))
                return num_bytes, stream.read(length)

    def _descriptor(self, path: str) -> int:
        if path not in self._open:
            if len(self._open) == _MAX_OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[path] = _open_regular(path)
        self._open.move_to_end(path)
        return self._open[path]


def _open_regular(path: str) -> int:
    """A descriptor; OSError for anything but a file. A pipe is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("not a regular file")
    return descriptor


@contextlib.contextmanager
def _told_as_image_error(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError("not_found", f"no file {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise ImageError("unreadable", f"{path}: {error}") from error


def _read_stored(path: str, offset: int, length: int | None) -> bytes:
    """Bytes of a file of Beam's file systems."""
    if length is not None:
        return storage.read_part(path, offset, length)
    with storage.open_to_read(path) as stream:
        return _read_fully(stream, MAX_FILE_BYTES + 1)


def _stored_tail(path: str, length: int) -> tuple[int, bytes]:
    num_bytes = storage.size(path)
    if num_bytes is None:
        raise FileNotFoundError(path)
    offset = max(0, num_bytes - length)
    return num_bytes, _read_stored(path, offset, num_bytes - offset)


def _read_fully(stream: BinaryIO, length: int) -> bytes:
    """So many bytes, or all there are: a stream may give less than it is asked for."""
    chunks = []
    while length > 0 and (chunk := stream.read(length)):
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


def _with_retries(read: Callable[[], _Result], path: str, stopped: threading.Event) -> _Result:
    """What `read` returns, tried again with back-off; raises ImageError."""
    wait_seconds = _FIRST_WAIT_SECONDS
    attempts_left = _STORE_ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            return read()
        except Exception as error:  # each store's client has errors of its own
            if isinstance(error, FileNotFoundError) or getattr(error, "code", None) == 404:
                raise ImageError("not_found", f"no file {path}") from error
            # ValueError: a scheme that no installed file system knows.
            is_final = isinstance(error, ValueError) or not attempts_left
            if is_final or stopped.wait(wait_seconds * random.uniform(0.5, 1.5)):
                raise ImageError("unreadable", f"{path}: {error}") from error
        wait_seconds *= 2


def _parse(address: str) -> tuple[str, int, int | None]:
    """(path, offset, length) of a reference; the length is None where it is a whole file."""
    found = _REFERENCE.fullmatch(address)
    if not found:
        return address, 0, None
    if int(found[3]) > MAX_FILE_BYTES:
        raise _too_many_bytes(address)
    return found[1], int(found[2]), int(found[3])


def _is_web(path: str) -> bool:
    return path.lower().startswith(web.SCHEMES)


def _checksum(data: bytes, expected: str) -> str:
    """The data's checksum, of the kind of the expected one."""
    name = expected.partition(":")[0]
    return f"{name}:{hashlib.new(name, data, usedforsecurity=False).hexdigest()}" if name else ""


def _too_many_bytes(address: str) -> ImageError:
    name = web.without_password(address)
    return ImageError("too_many_bytes", f"{name}: more than {MAX_FILE_BYTES} bytes")
