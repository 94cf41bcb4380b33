"""Tar archives: where their members lie, read from the headers alone.

Nothing is ever extracted: a member is a range of an archive's bytes, and its name is only a name.
A compressed archive is unpacked once, as a whole, into a plain one.
"""

import io
import os
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pipeline import compressed, storage
from pipeline.loss import Loss

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_BLOCK_BYTES = tarfile.BLOCKSIZE
_END_BLOCK = bytes(_BLOCK_BYTES)
_MAX_LONG_HEADER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_MAX_PADDING_BYTES = 1 << 20  # zeros behind the end: usual are 10 KB at most
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_PAX_HEADERS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


class TarError(ValueError):
    """An archive that is damaged; says where, and what is lost thereby."""

    def __init__(self, message: str, loss: Loss) -> None:
        super().__init__(message)
        self.loss = loss


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str
    offset: int  # of its bytes in the archive
    length: int


class Archive:
    """An archive that is open to be read, whether compressed or not."""

    def __init__(self, path: str, unpacked_dir: str) -> None:
        found, self._damage = compressed.plain(path, unpacked_dir)
        self.path = os.path.abspath(found) if storage.is_local(found) else found
        self._stream = storage.open_to_read(self.path)

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def members(self) -> Iterator[Member]:
        """Its regular files; raises TarError at its end, or where it is damaged."""
        yield from _members(self._stream)
        if self._damage:
            raise TarError(self._damage, Loss(self._stream.tell(), 0))

    def read(self, member: Member) -> bytes:
        self._stream.seek(member.offset)
        return self._stream.read(member.length)


def _members(stream: BinaryIO) -> Iterator[Member]:
    end = stream.seek(0, io.SEEK_END)
    position = 0
    long_header: dict[str, str] = {}  # what headers before a member say of it
    while (header := _header(stream, position, end)) is not None:
        start = position + _BLOCK_BYTES
        if header.type == tarfile.GNUTYPE_SPARSE:
            start = _after_sparse_map(stream, position)
        size = int(long_header.get("size", header.size))
        has_data = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
        is_long_header = header.type in (*_PAX_HEADERS, *_LONG_NAMES, tarfile.XGLTYPE)
        if is_long_header:
            size = header.size
        elif not has_data:
            size = 0
        if size < 0 or start + size > end:
            message = f"cut off at byte {end}, within {header.name!r} of {size} bytes"
            raise TarError(message, Loss(end, None))
        position = start + -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
        if is_long_header:
            long_header |= _long_header(stream, header, start, end)
            continue
        name = long_header.get("path", header.name).removeprefix("./")
        is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse") for key in long_header
        )
        if header.isreg() and not is_sparse and _is_below(name):
            yield Member(name, start, size)
        long_header = {}


def _header(stream: BinaryIO, position: int, end: int) -> tarfile.TarInfo | None:
    """The header at a place; None at the end of the archive."""
    stream.seek(position)
    block = stream.read(_BLOCK_BYTES)
    rest = Loss(end, end - position)
    if block == _END_BLOCK:
        if end - position > _MAX_PADDING_BYTES:
            raise TarError(f"{end - position} bytes of zeros from byte {position} on", rest)
        while chunk := stream.read(_CHUNK_BYTES):
            if chunk.strip(b"\0"):
                raise TarError(f"more data behind the end of the archive at byte {position}", rest)
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        if not position and not block:
            raise TarError("it is empty", Loss(end, None)) from error
        if not block:  # whoever wrote it may not have closed it: nothing need be missing
            message = f"cut off at byte {end}: no end of the archive"
            raise TarError(message, Loss(end, 0)) from error
        if len(block) < _BLOCK_BYTES:
            message = f"cut off at byte {end}, within the header of a member"
            raise TarError(message, Loss(end, None)) from error
        if not position:
            raise TarError("it is no tar archive", rest) from error
        message = f"damaged at byte {position} of {end}: no header of a member"
        raise TarError(message, rest) from error


def _after_sparse_map(stream: BinaryIO, position: int) -> int:
    """Where the data of a sparse member of GNU's old format begins."""
    more = 482  # the byte that says whether another block of the map follows
    while True:
        stream.seek(position)
        block = stream.read(_BLOCK_BYTES)
        position += _BLOCK_BYTES
        if len(block) <= more or not block[more]:
            return position
        more = 504


def _long_header(stream: BinaryIO, header: tarfile.TarInfo, start: int, end: int) -> dict[str, str]:
    """What an extended header says of the member after it."""
    if header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
        return {}
    if header.size > _MAX_LONG_HEADER_BYTES:
        raise TarError(f"a header of {header.size} bytes at byte {start}", Loss(end, end - start))
    stream.seek(start)
    data = stream.read(header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": _text(data.split(b"\0", 1)[0])}
    records = {}
    position = 0
    while match := _PAX_RECORD.match(data, position):
        length = int(match[1])
        records[_text(match[2])] = _text(data[match.end() : position + length - 1])
        position += max(length, 1)
    if not re.fullmatch("[0-9]{1,19}", records.get("size", "0")):
        raise TarError(f"a header without a size at byte {start}", Loss(end, end - start))
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _is_below(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")
