"""Rows as they travel through the shuffle: lines of text, hashed and packed by the batch.

What goes through the grouping is a pack: the lines of one batch that belong to one group, together
and compressed. Millions of rows then cost the runner thousands of elements, of half the bytes.

A line is the cells of a row, parted by control characters, which no cell may hold:

    image_id US uri US annotations US place US checksum US rotation US split LF
    annotations: label [GS confidence [GS source]], parted by RS
    a row that cannot be read: US text US detail US place LF
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.records import Annotation, BadRow, ImageRow

BATCH_ROWS = 32_768

CELL, ANNOTATION, PART, LINE = "\x1f", "\x1e", "\x1d", "\n"
_CODEC = pa.Codec("zstd", 1)
_LENGTH_BYTES = 4  # before each pack: its length without compression
SALT = "xception-at-scale shard order 2"


class Batch(NamedTuple):
    """Rows of one part of the input."""

    keys: list[bytes]  # UTF-8 of what is hashed: the image id; of a bad row its text
    splits: list[str] | None  # cells of the split column; None: all empty
    lines: pa.LargeBinaryArray  # as encode() gives them

    @classmethod
    def of(cls, rows: Iterable[ImageRow | BadRow]) -> "Batch":
        keys, splits, lines = [], [], []
        for row in rows:  # one at a time: as objects they take ten times the memory
            key, split = (row.text, "") if isinstance(row, BadRow) else (row.image_id, row.split)
            keys.append(key.encode())
            splits.append(split)
            lines.append(encode(row))
        return cls(keys, splits if any(splits) else None, pa.array(lines, pa.large_binary()))


def batched(rows: Iterable[ImageRow | BadRow]) -> Iterator[Batch]:
    """The rows in batches."""
    remaining = iter(rows)
    while (batch := Batch.of(itertools.islice(remaining, BATCH_ROWS))).keys:
        yield batch


def encode(row: ImageRow | BadRow) -> bytes:
    """The row's line."""
    if isinstance(row, BadRow):
        cells = ["", *(" ".join(cell.split()) for cell in row[:2]), row.place]
        return (CELL.join(cells) + LINE).encode()
    annotations = ANNOTATION.join(map(_encode_annotation, row.annotations))
    cells = [row.image_id, row.uri, annotations, row.place]
    if row.checksum or row.rotation or row.split:
        cells += [row.checksum, str(row.rotation or ""), row.split]
    return (CELL.join(cells) + LINE).encode()


def decode(line: str) -> ImageRow | BadRow:
    """The row of a line, with or without its line feed."""
    cells = line.rstrip(LINE).split(CELL)
    if not cells[0]:
        return BadRow(*cells[1:])
    image_id, uri, annotations, place, *rest = cells
    found = tuple(map(_decode_annotation, annotations.split(ANNOTATION))) if annotations else ()
    if not rest:
        return ImageRow(image_id, uri, found, place)
    checksum, rotation, split = rest
    return ImageRow(image_id, uri, found, place, checksum, int(rotation or 0), split)


def _encode_annotation(annotation: Annotation) -> str:
    label, confidence, source = annotation
    if source:
        return f"{label}{PART}{confidence!r}{PART}{source}"
    return label if confidence == 1 else f"{label}{PART}{confidence!r}"


def _decode_annotation(text: str) -> Annotation:
    label, *rest = text.split(PART)
    return Annotation(label, float(rest[0]), *rest[1:]) if rest else Annotation(label)


class Hashes(NamedTuple):
    """Two independent 64-bit hashes of each row's key."""

    order: np.ndarray  # uint64 [num_rows]: decides the shard, and the place in it
    split: np.ndarray  # uint64 [num_rows]: decides which split a row falls into


def hashes(keys: Iterable[bytes]) -> Hashes:
    keyed = hashlib.blake2b(digest_size=16, key=SALT.encode())

    def digest(key: bytes) -> bytes:
        copy = keyed.copy()
        copy.update(key)
        return copy.digest()

    both = np.frombuffer(b"".join(map(digest, keys)), ">u8").astype(np.uint64).reshape(-1, 2)
    return Hashes(both[:, 0], both[:, 1])


def groups_of(hashed: np.ndarray, num_groups: int) -> np.ndarray:
    """int64 [num_rows], `hashed · num_groups >> 64`: the groups are equal ranges of the hash."""
    high, low = hashed >> np.uint64(32), hashed & np.uint64(0xFFFFFFFF)
    count = np.uint64(num_groups)  # below 2^32, so that neither product overflows
    return ((high * count + (low * count >> np.uint64(32))) >> np.uint64(32)).astype(np.int64)


def packs(lines: pa.LargeBinaryArray, groups: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(group, pack) for every group that a line belongs to."""
    if not len(lines):
        return
    order = np.argsort(groups, kind="stable")
    ordered = lines.take(pa.array(order))
    _, offsets_buffer, data = ordered.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, count=len(ordered) + 1)
    text = memoryview(data)
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(ordered)], strict=True):
        yield int(sorted_groups[start]), _pack(text[offsets[start] : offsets[end]])


def unpack(pack: bytes) -> Iterator[ImageRow | BadRow]:
    """The rows of a pack."""
    length = int.from_bytes(pack[:_LENGTH_BYTES], "big")
    text = _CODEC.decompress(pack[_LENGTH_BYTES:], length, asbytes=True).decode()
    return map(decode, text.split(LINE)[:-1])


def _pack(lines: memoryview) -> bytes:
    return len(lines).to_bytes(_LENGTH_BYTES, "big") + _CODEC.compress(lines, asbytes=True)
