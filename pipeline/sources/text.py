"""Text files as lines: cut into ranges of bytes, decompressed where they end with .gz.

A line ends with a line feed, and no cell runs over several lines, so that a stray quote costs one
row, and a file can be cut after any line. Memory is bounded by a block, whatever the file holds.
"""

import contextlib
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, cast

from pipeline import storage
from pipeline.rows import BATCH_ROWS
from pipeline.sources.source import Part, SourceError

PART_BYTES = 64 << 20
COMPRESSED = ".gz"
MAX_LINE_CHARACTERS = 4 << 20  # a longer line is cut off there, for its own row to be refused
_BLOCK_BYTES = 8 << 20
_FIRST_LINES, _FIRST_BYTES = 1000, 4 << 20
_MAX_LINE_BYTES = 4 * MAX_LINE_CHARACTERS + 4  # no fewer characters than that
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Head(NamedTuple):
    """The first line of a file that is not blank."""

    text: str
    number: int  # of the line, from 1
    start: int  # in bytes, without byte order mark
    end: int


class Survey(NamedTuple):
    """What a whole file of any format holds."""

    digest: str  # sha256, of text once decompressed
    num_lines: int  # or records, where these are no lines
    parts: list[Part]


@contextlib.contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """A stream of the file, decompressed; damage is raised as SourceError, in the block too."""
    with storage.open_to_read(path) as stream:
        if not path.lower().endswith(COMPRESSED):
            yield stream
            return
        try:
            with gzip.open(stream) as decompressed:
                yield cast(BinaryIO, decompressed)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(f"{path}: a damaged {COMPRESSED} file: {error}") from error


def head(path: str) -> Head | None:
    """The first line that says something; None where there is none. Raises SourceError."""
    with opened(path) as stream:
        start = len(_BYTE_ORDER_MARK)
        if stream.read(start) != _BYTE_ORDER_MARK:
            start = 0
        stream.seek(start)
        number = 0
        while line := stream.readline(_MAX_LINE_BYTES):
            number += 1
            if line.strip():
                return Head(_head_text(path, line), number, start, start + len(line))
            start += len(line)
    return None


def _head_text(path: str, line: bytes) -> str:
    text = line.decode("utf-8", "surrogateescape")
    if "\0" in text or has_surrogates(text):
        raise SourceError(f"{path}: the first line is not UTF-8 text: is the file compressed?")
    if text.endswith("\r") or "\r" in text.rstrip("\r\n"):
        raise SourceError(f"{path}: lines end with CR alone: write them with LF or CRLF")
    if len(text) > MAX_LINE_CHARACTERS:
        raise SourceError(f"{path}: the first line has more than {MAX_LINE_CHARACTERS} characters")
    return text


def first_lines(path: str, start: int) -> list[str]:
    """The first lines from byte `start` on; where their bytes are bounded, the last is cut off."""
    with opened(path) as stream:
        stream.seek(start)
        block = stream.read(_FIRST_BYTES)
    return block.decode("utf-8", "surrogateescape").split("\n")[:_FIRST_LINES]


def survey(path: str, file: int, start: int, first: int) -> Survey:
    """Reads the whole file once; its rows begin at byte `start`, which is line `first`."""
    digest = hashlib.sha256()
    parts = []
    offset, num_lines, first_row, last = 0, 0, first, b"\n"
    is_whole = path.lower().endswith(COMPRESSED)  # which can only be read from its start
    with opened(path) as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            cut = block.rfind(b"\n") + 1
            if cut and not is_whole and offset + cut - start >= PART_BYTES:
                parts.append(Part(file, path, start, offset + cut, first))
                start, first = offset + cut, num_lines + block.count(b"\n") + 1
            num_lines += block.count(b"\n")
            offset += len(block)
            last = block[-1:]
    num_lines += last != b"\n"
    if offset > start:
        parts.append(Part(file, path, start, None if is_whole else offset, first))
    return Survey(digest.hexdigest(), max(num_lines - first_row + 1, 0), parts)


def lines(part: Part) -> Iterator[list[str]]:
    """The lines of a part, without their line feeds, at most BATCH_ROWS at a time.

    Bytes that are not UTF-8 come through as lone surrogates, for their own row to be refused.
    """
    rest = b""
    for block in _blocks(part):
        block = rest + block
        cut = block.rfind(b"\n") + 1
        rest = block[cut:][:_MAX_LINE_BYTES]
        found = block[: max(cut - 1, 0)].decode("utf-8", "surrogateescape").split("\n")
        for start in range(0, len(found) if cut else 0, BATCH_ROWS):
            yield found[start : start + BATCH_ROWS]
    if rest:
        yield [rest.decode("utf-8", "surrogateescape")]


def _blocks(part: Part) -> Iterator[bytes]:
    with opened(part.path) as stream:
        stream.seek(part.start)
        offset = part.start
        while part.end is None or offset < part.end:
            size = _BLOCK_BYTES if part.end is None else min(_BLOCK_BYTES, part.end - offset)
            block = stream.read(size)
            if not block:
                return
            yield block
            offset += len(block)


def has_surrogates(text: str) -> bool:
    """Whether the text holds what UTF-8 has not: what was no UTF-8 when it was read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
