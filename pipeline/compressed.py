"""Compressed files, unpacked once into plain ones, so that what lies in them can be referred to."""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from pipeline import storage

_OPENERS: dict[tuple[str, ...], Callable[[BinaryIO], Any]] = {
    (".gz", ".tgz"): gzip.open,
    (".bz2", ".tbz2"): bz2.open,
    (".xz", ".txz"): lzma.open,
}

# A file may unpack to this many times its size: what grows more is a bomb.
_MAX_RATIO = 200
_FREE_BYTES = 1 << 26  # which any file may reach
_CHUNK_BYTES = 1 << 20

# What reading damaged data raises; see storage.raise_if_not_damage.
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)


def plain(path: str, unpacked_dir: str) -> tuple[str, str]:
    """Path of the file without its compression, and what is wrong with it, or "".

    That is the file itself where it is not compressed; otherwise the path is absolute where local,
    and the file holds what comes before the damage. Raises OSError.
    """
    opener = _opener(path)
    if opener is None:
        return path, ""
    if storage.is_local(unpacked_dir):
        unpacked_dir = os.path.abspath(unpacked_dir)
    size = storage.size(path)
    if size is None:
        raise FileNotFoundError(f"no file {path}")
    digest = hashlib.blake2b(f"{path}\0{size}".encode(), digest_size=16).hexdigest()
    target, note = (storage.join(unpacked_dir, digest + end) for end in ("", ".damage.txt"))
    if not storage.exists(target):
        max_bytes = max(_FREE_BYTES, _MAX_RATIO * size)
        with storage.open_to_read(path) as stream, storage.write_atomically(target) as output:
            damage = _unpack(opener(stream), output, max_bytes)
            if damage:
                storage.write_text(note, damage)
    return target, storage.read_text(note) if storage.exists(note) else ""


@contextlib.contextmanager
def open_to_read(path: str) -> Iterator[BinaryIO]:
    """A binary stream of what the file holds, which raises one of DAMAGE where that is damaged."""
    opener = _opener(path)
    with storage.open_to_read(path) as stream:
        if opener is None:
            yield stream
        else:
            with opener(stream) as unpacked:
                yield unpacked


def _opener(path: str) -> Callable[[BinaryIO], Any] | None:
    name = path.lower()
    return next((_OPENERS[suffixes] for suffixes in _OPENERS if name.endswith(suffixes)), None)


def _unpack(stream: Any, output: BinaryIO, max_bytes: int) -> str:
    """Copies what can be read; what is wrong with the rest, or ""."""
    num_bytes = 0
    while True:
        try:
            data = stream.read1(_CHUNK_BYTES)  # read() would lose what comes just before the damage
        except DAMAGE as error:
            storage.raise_if_not_damage(error)
            return f"the compressed data is damaged behind {num_bytes} bytes: {error}"
        if not data:
            return ""
        num_bytes += len(data)
        if num_bytes > max_bytes:
            return f"it unpacks to more than {max_bytes} bytes: is it a decompression bomb?"
        output.write(data)
