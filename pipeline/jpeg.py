"""JPEG files: what their markers say, and a strict decode that can mend a missing end marker.

A file that was cut is told from one that lacks its end marker alone: the missing marker is put
back, and then the decoder, which counts every warning as an error, must find all the bits that it
needs. Whether whole scans are missing it does not say; that stands in the scans' headers.
"""

import math
from typing import NamedTuple

import numpy as np
import simplejpeg

SIGNATURE = b"\xff\xd8"
MAX_SCANS = 200  # usual are 1 to 12; each costs a pass over the image, and takes but a few bytes

_START_OF_SCAN = b"\xff\xda"
_END_OF_IMAGE = b"\xff\xd9"
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_DCT = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: what every decoder reads
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
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

    @property
    def is_progressive(self) -> bool:
        return self.frame_marker in _PROGRESSIVE

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
    position = len(SIGNATURE)
    while position + 4 <= len(data):
        position = data.find(b"\xff", position)
        while position >= 0 and data[position + 1 : position + 2] == b"\xff":  # fill bytes
            position += 1
        segment = data[position : position + 4]
        if position < 0 or len(segment) < 4:
            break
        if segment.startswith(_START_OF_SCAN) and component_ids:
            return Header(width, height, component_ids, frame_marker, position)
        length = int.from_bytes(segment[2:], "big")
        if segment[1] in _FRAME_MARKERS:
            frame_marker = segment[1]
            component_ids = tuple(data[position + 10 : position + 2 + length : 3])
        has_length = segment[1] not in (0x00, 0x01, *range(0xD0, 0xD9))
        position += 2 + (length if has_length else 0)
    raise JpegError("truncated: no scan follows the header")


def num_scans(data: bytes, header: Header) -> int:
    """How many passes over the image the file consists of."""
    end = data.find(_END_OF_IMAGE, header.first_scan)
    return data.count(_START_OF_SCAN, header.first_scan, end if end >= 0 else len(data))


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
    mended = data + _END_OF_IMAGE
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
    if not header.is_common or data.find(_END_OF_IMAGE, header.first_scan) >= 0:
        return False
    missing = {component: set(range(_NUM_COEFFICIENTS)) for component in header.component_ids}
    position = header.first_scan
    while position >= 0:
        scan = data[position + 4 : position + 4 + int.from_bytes(data[position + 2 : position + 4])]
        if len(scan) < 6 or len(scan) < 2 * scan[0] + 4:
            return False
        first, last, approximation = scan[2 * scan[0] + 1 : 2 * scan[0] + 4]
        is_last_bit = approximation & 0x0F == 0
        for component in scan[1 : 2 * scan[0] : 2]:
            if is_last_bit:
                missing.get(component, set()).difference_update(range(first, last + 1))
        position = data.find(_START_OF_SCAN, position + 2)
    return not any(missing.values())
