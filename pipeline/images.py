"""One image's bytes in, one RGB JPEG out: limits, strict decode, orientation, resize, encode.

- Formats: JPEG, PNG, WebP, GIF (first frame), BMP, by their content; the file's name says nothing.
- The shorter side is brought down to the target; nothing is ever enlarged, the ratio is kept.
- EXIF orientation is applied; gray, CMYK, palette and 16-bit become 8-bit RGB; alpha is laid on
  white.
- A JPEG that is RGB, upright and small enough keeps its bytes, after a full decode has found no
  fault: encoding it again would only lose quality.
- Pixels are counted from the header, before anything is decoded.
"""

import io
import math
import struct
import warnings
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

# Above the first number no image is opened; the others bound what one decode may hold in memory:
# 64 megapixels are 192 MB of RGB, and a progressive JPEG keeps its coefficients besides.
MAX_IMAGE_PIXELS = 500_000_000
MAX_DECODED_PIXELS = 64_000_000
MAX_PROGRESSIVE_PIXELS = 40_000_000
MAX_SIDE = 65_500  # of a JPEG, by libjpeg
MAX_FILE_BYTES = 256 * 1024 * 1024

REASONS = (  # of a file that gives no image; pipeline.dead_letter has those of a row besides
    "not_found",
    "unreadable",
    "empty_file",
    "too_many_bytes",
    "not_an_image",
    "too_many_pixels",
    "truncated_jpeg",
    "corrupt_jpeg",
    "corrupt_image",
)

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_JPEG_SIGNATURE = b"\xff\xd8"
_ORIENTATION_TAG = 0x0112
_LANCZOS_RATIO = 1.5  # from here cubic interpolation would skip pixels
# A JPEG is decoded at 1/2, 1/4 or 1/8 where the target stays this much smaller. The codec's other
# scales (3/8, 5/8, ...) are slower and 10 dB further from a Lanczos resize of the whole image.
_SCALED_DECODE_RATIO = 1.3
_FAST_MODES = ("RGB", "L")  # of a JPEG, decoded by simplejpeg; CMYK is Pillow's
_OPAQUE_MODES = ("RGB", "L", "1", "CMYK", "YCbCr")
# What Pillow raises for damaged files, by format and by where the damage is. A Warning: where the
# caller turns them into errors.
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, IndexError, KeyError, EOFError, struct.error, Warning
)  # fmt: skip

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged EXIF
Image.MAX_IMAGE_PIXELS = None  # Pillow's own cap only warns; ours are above
cv2.setNumThreads(1)  # a worker process has one core


class ImageError(Exception):
    """An image that cannot be used: `reason` is one of REASONS, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class _Header(NamedTuple):
    """What is known before decoding."""

    is_jpeg: bool
    mode: str  # Pillow's
    width: int  # as stored, before orientation
    height: int
    orientation: int  # EXIF, 1 to 8
    progressive: bool


def prepare(data: bytes, shorter_side: int | None, jpeg_quality: int) -> bytes:
    """An RGB JPEG of the image in `data`; raises ImageError.

    `shorter_side`: pixels the shorter side is brought down to; None keeps every size.
    """
    if not data:
        raise ImageError("empty_file", "0 bytes")
    image = _open(data)
    header = _header(image)
    target = _target_size(header.width, header.height, shorter_side)
    _check_limits(header, target)
    if header.is_jpeg and header.mode in _FAST_MODES:
        pixels = _decode_jpeg(data, header, target)
        is_untouched = target == (header.width, header.height) and header.orientation == 1
        if is_untouched and header.mode == "RGB":
            return data
    else:
        pixels = _decode_with_pillow(image, data)
    pixels = _upright(_resize(pixels, target), header.orientation)
    return simplejpeg.encode_jpeg(pixels, quality=jpeg_quality, colorsubsampling="420")


def _open(data: bytes) -> Image.Image:
    """The image with its header read and its pixels not."""
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except _PILLOW_ERRORS as error:
        if data.startswith(_JPEG_SIGNATURE):
            raise _jpeg_error(error) from error
        detail = f"neither JPEG, PNG, WebP, GIF nor BMP: begins with {data[:8]!r}"
        raise ImageError("not_an_image", detail) from error


def _header(image: Image.Image) -> _Header:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _PILLOW_ERRORS:
        orientation = 1  # damaged EXIF says nothing about the pixels
    return _Header(
        is_jpeg=image.format in ("JPEG", "MPO"),
        mode=image.mode,
        width=image.width,
        height=image.height,
        orientation=orientation if orientation in range(1, 9) else 1,
        progressive=bool(image.info.get("progressive")),
    )


def _target_size(width: int, height: int, shorter_side: int | None) -> tuple[int, int]:
    """(width, height) of the output, before orientation."""
    shortest = min(width, height)
    if shorter_side is None or shortest <= shorter_side:
        return width, height
    scale = shorter_side / shortest
    return max(1, round(width * scale)), max(1, round(height * scale))


def _check_limits(header: _Header, target: tuple[int, int]) -> None:
    num_pixels = header.width * header.height
    size = f"{header.width} x {header.height} pixels"
    decoded_pixels = num_pixels
    if header.is_jpeg and header.mode in _FAST_MODES:
        decoded_pixels //= _decode_divisor(header, target) ** 2
    for count, limit, kind in (
        (num_pixels, MAX_IMAGE_PIXELS, "image"),
        (decoded_pixels, MAX_DECODED_PIXELS, "decoded image"),
        (num_pixels if header.progressive else 0, MAX_PROGRESSIVE_PIXELS, "progressive JPEG"),
    ):
        if count > limit:
            raise ImageError("too_many_pixels", f"{size}; limit of the {kind}: {limit}")
    if max(target) > MAX_SIDE:
        raise ImageError("too_many_pixels", f"{size}; limit of a side: {MAX_SIDE}")


def _decode_divisor(header: _Header, target: tuple[int, int]) -> int:
    """1, 2, 4 or 8: the fraction of its size that a JPEG is decoded at."""
    ratio = min(header.width / target[0], header.height / target[1])
    return max(d for d in (1, 2, 4, 8) if d == 1 or ratio / d >= _SCALED_DECODE_RATIO)


def _decode_jpeg(data: bytes, header: _Header, target: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 3], not smaller than `target`."""
    divisor = _decode_divisor(header, target)
    try:
        return simplejpeg.decode_jpeg(
            data,
            "RGB",
            min_width=math.ceil(header.width / divisor),
            min_height=math.ceil(header.height / divisor),
            strict=True,
        )
    except ValueError as error:
        raise _jpeg_error(error) from error


def _jpeg_error(error: Exception) -> ImageError:
    detail = str(error)
    is_truncated = "premature end" in detail.lower() or "truncated" in detail.lower()
    return ImageError("truncated_jpeg" if is_truncated else "corrupt_jpeg", detail)


def _decode_with_pillow(image: Image.Image, data: bytes) -> np.ndarray:
    """uint8 [height, width, 3], at full size."""
    try:
        if image.format == "PNG":  # whose checksums are not looked at while decoding
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()
        if image.mode.startswith("I;16"):  # Pillow would clip, not scale
            gray = (np.asarray(image) >> 8).astype(np.uint8)
            return np.stack([gray] * 3, axis=-1)
        if image.mode in _OPAQUE_MODES and "transparency" not in image.info:
            return np.asarray(image.convert("RGB"))
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return np.asarray(Image.alpha_composite(paper, layer).convert("RGB"))
    except _PILLOW_ERRORS as error:
        if image.format in ("JPEG", "MPO"):
            raise _jpeg_error(error) from error
        raise ImageError("corrupt_image", f"{image.format}: {error}") from error


def _resize(pixels: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    height, width, _ = pixels.shape
    if (width, height) == target:
        return pixels
    if min(width / target[0], height / target[1]) < _LANCZOS_RATIO:
        return cv2.resize(pixels, target, interpolation=cv2.INTER_CUBIC)
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The image as it is to be seen, by its EXIF orientation."""
    if orientation in (2, 4, 5, 7):  # mirrored
        pixels = pixels[:, ::-1]
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)  # to the left
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns))
