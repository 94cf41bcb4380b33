"""JPEG files: what their markers say, and a strict decode that can mend a missing end marker.

A file that was cut is told from one that lacks its end marker alone: the missing marker is put
back, and then the decoder, which counts every warning as an error, must find all the bits that it
needs. Whether whole scans are missing it does not say; that stands in the scans' headers.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

SIGNATURE = b"\xff\xd8"
MAX_SCANS = 200  # usual are 1 to 12; each costs a pass over the image, and takes but a few bytes

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_END_MARKER = bytes((0xFF, _END_OF_IMAGE))
# Neither a stuffed byte of the pixels' bits, nor a restart among them.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_DCT = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: what every decoder reads
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
# Segments that say how long they are, and may hold what looks like a marker. At any other, a
# decoder ends, or seeks the next marker right behind it.
_WITH_LENGTH = frozenset(
    {*_FRAME_MARKERS, *range(0xE0, 0xF0), 0xC4, 0xCC, _START_OF_SCAN, 0xDB, 0xDC, 0xDD, 0xFE}
)
_NUM_COEFFICIENTS = 64


class JpegError(ValueError):
    """A JPEG that is damaged."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.is_truncated = "premature end" in message.lower() or "truncated" in message.lower()


class Header(NamedTuple):
    """What the markers before the pixels say."""

    width: int  # as stored
    height: int
    component_ids: tuple[int, ...]
    frame_marker: int
    first_scan: int  # where it begins in the file
    is_buffered: bool  # whether a decoder keeps all coefficients, for more scans to refine

    @property
    def is_common(self) -> bool:
        """Whether every decoder reads this kind of JPEG."""
        return self.frame_marker in _HUFFMAN_DCT


def read_header(data: bytes) -> Header:
    """The header of a JPEG; raises JpegError."""
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except (ValueError, KeyError) as error:  # KeyError: a color space that it has no name for
        raise JpegError(str(error)) from error
    frame_marker = 0
    component_ids: tuple[int, ...] = ()
    for marker, start in _segments(data, len(SIGNATURE)):
        if marker == _START_OF_SCAN and component_ids:
            is_partial = int.from_bytes(data[start + 2 : start + 3]) != len(component_ids)
            is_buffered = is_partial or frame_marker in _PROGRESSIVE
            return Header(width, height, component_ids, frame_marker, start - 2, is_buffered)
        if marker in _FRAME_MARKERS:
            frame_marker = marker
            end = start + int.from_bytes(data[start : start + 2])
            component_ids = tuple(data[start + 8 : end : 3])
    raise JpegError("truncated: no scan follows the header")


def num_scans(data: bytes, header: Header) -> int:
    """How many passes over the image a decoder makes, at most."""
    if not header.is_buffered:
        return 1  # a second scan is an error
    return sum(marker == _START_OF_SCAN for marker, _ in _segments(data, header.first_scan))


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """(marker, where its segment begins), as a decoder finds them, from a place to the end."""
    while match := _MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        yield marker, position
        if marker == _END_OF_IMAGE:
            return
        if marker in _WITH_LENGTH:
            position += max(2, int.from_bytes(data[position : position + 2]))


class Decoded(NamedTuple):
    """The pixels of a file, and the file."""

    pixels: np.ndarray  # uint8 [height, width, 3]
    data: bytes  # as given, or with the end marker that was missing
    was_mended: bool


def decode(data: bytes, header: Header, divisor: int) -> Decoded:
    """The image at 1 / `divisor` of its size: 1, 2, 4 or 8; raises JpegError at any fault."""
    try:
        return Decoded(_decode(data, header, divisor), data, was_mended=False)
    except JpegError as error:
        if not error.is_truncated or not _lacks_only_its_end(data, header):
            raise
    mended = data + _END_MARKER
    return Decoded(_decode(mended, header, divisor), mended, was_mended=True)


def _decode(data: bytes, header: Header, divisor: int) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_width=math.ceil(header.width / divisor),
            min_height=math.ceil(header.height / divisor),
            strict=True,
        )
    except ValueError as error:
        raise JpegError(str(error)) from error


def _lacks_only_its_end(data: bytes, header: Header) -> bool:
    """Whether every scan has begun, and none has an end; of the last the decoder will know."""
    if not header.is_common:
        return False
    missing = {component: set(range(_NUM_COEFFICIENTS)) for component in header.component_ids}
    for marker, start in _segments(data, header.first_scan):
        if marker == _END_OF_IMAGE:
            return False
        if marker != _START_OF_SCAN:
            continue
        scan = data[start + 2 : start + int.from_bytes(data[start : start + 2])]
        if len(scan) < 6 or len(scan) < 2 * scan[0] + 4:
            return False
        first, last, approximation = scan[2 * scan[0] + 1 : 2 * scan[0] + 4]
        is_last_bit = approximation & 0x0F == 0
        for component in scan[1 : 2 * scan[0] : 2]:
            if is_last_bit:
                missing.get(component, set()).difference_update(range(first, last + 1))
    return not any(missing.values())
