"""One image's bytes in, one RGB JPEG out: limits, strict decode, orientation, resize, encode.

- Formats: JPEG, PNG, WebP, GIF (first frame), BMP, by their content; the file's name says nothing.
- The shorter side is brought to the target, and the centre cut out of it where a crop is wanted;
  nothing is enlarged unless asked, the ratio is kept.
- EXIF orientation is applied, then the source's rotation; gray, CMYK, palette and 16-bit become
  8-bit RGB; alpha is laid on white.
- A JPEG that is RGB, upright and of the right size keeps its bytes, after a decode has found no
  fault: encoding it again would only lose quality.
- `untouched`: JPEG and PNG keep their bytes, whatever their size, mode and orientation. The other
  formats become JPEG at full size; their EXIF orientation, which is lost thereby, is applied.
- What decoding will hold in memory is reckoned from the header, before anything is decoded.
"""

import io
import struct
import warnings
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from pipeline import jpeg
from pipeline.recipe import ImageRecipe
from pipeline.resampling import resize

MAX_IMAGE_PIXELS = 500_000_000
MAX_WORKING_BYTES = 512 * 1024 * 1024  # what the pixels of one image may take in memory
MAX_SIDE = 65_500  # of a JPEG, by libjpeg
MAX_FILE_BYTES = 256 * 1024 * 1024

REASONS = (  # of a file that gives no image; pipeline.dead_letter has those of a row besides
    "not_found",
    "unreadable",
    "refused_address",
    "checksum_mismatch",
    "empty_file",
    "too_many_bytes",
    "not_an_image",
    "too_many_pixels",
    "truncated_jpeg",
    "corrupt_jpeg",
    "corrupt_image",
)

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_ORIENTATION_TAG = 0x0112
_QUARTER_TURNS = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}  # to the left, by orientation
# A JPEG is decoded at 1/2, 1/4 or 1/8 where the target stays this much smaller. The codec's other
# scales (3/8, 5/8, ...) are slower and 10 dB further from a Lanczos resize of the whole image.
_SCALED_DECODE_RATIO = 1.3
# Measured: bytes of memory a pixel, from the decoder to the resized image.
_BYTES_A_PIXEL = {"JPEG": 8, "PNG": 10, "GIF": 8, "BMP": 10, "WEBP": 20}
_BYTES_A_COEFFICIENT = 2  # which a JPEG of several scans keeps all of
_STRIP_ROWS = 64  # converted at a time
_OPAQUE_MODES = ("RGB", "L", "1")
# What Pillow raises for damaged files, by format and by where the damage is. A Warning: where the
# caller turns them into errors.
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, IndexError, KeyError, EOFError, struct.error, Warning
)  # fmt: skip

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged EXIF
Image.MAX_IMAGE_PIXELS = None  # Pillow's own cap only warns; ours are above


class ImageError(Exception):
    """An image that cannot be used: `reason` is one of REASONS, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, str]]:
        return ImageError, (self.reason, self.detail)


class Prepared(NamedTuple):
    """An image, checked and ready to be written."""

    image: bytes
    width: int  # of the source, as seen upright
    height: int
    salvaged: bool  # whether the file's end marker was missing; `image` has one


class _Source(NamedTuple):
    """What is known of an image before its pixels are decoded."""

    image: Image.Image
    jpeg: jpeg.Header | None  # None of other formats
    width: int  # as stored, before orientation
    height: int

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def format(self) -> str:
        return "JPEG" if self.jpeg else str(self.image.format)


def prepare(data: bytes, recipe: ImageRecipe, rotation: int = 0) -> Prepared:
    """The image in `data`, made by the recipe; raises ImageError.

    `rotation`: degrees counter-clockwise, 0, 90, 180 or 270, after EXIF orientation.
    """
    if not data:
        raise ImageError("empty_file", "0 bytes")
    source = _open(data)
    target = _target_size(source, recipe)
    if not source.jpeg:  # a PNG may tell its orientation after its pixels
        _check_limits(data, source, target, divisor=1)
        _load(source, data)
    is_mirrored, exif_turns = _orientation(source.image)
    turns = (exif_turns + rotation // 90) % 4
    upright_size = source.size[::-1] if turns % 2 else source.size
    keeps_bytes = _keeps_bytes(source, recipe, target, is_mirrored or turns > 0)
    salvaged = False
    pixels = None
    if source.jpeg:
        divisor = 8 if keeps_bytes else _decode_divisor(source, target)
        _check_limits(data, source, (0, 0) if keeps_bytes else target, divisor)
        pixels, data, salvaged = _decode_jpeg(data, source.jpeg, divisor)
    if not keeps_bytes:
        pixels = resize(_rgb(source.image) if pixels is None else pixels, target)
        pixels = pixels[:, ::-1] if is_mirrored else pixels
        pixels = np.rot90(pixels, exif_turns if recipe.untouched else turns)
        if recipe.crop and not recipe.untouched:
            pixels = _centre(pixels, recipe.crop)
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=recipe.jpeg_quality, colorsubsampling="420"
        )
    return Prepared(data, *upright_size, salvaged)


def _open(data: bytes) -> _Source:
    """The image with its header read and its pixels not."""
    is_jpeg = data.startswith(jpeg.SIGNATURE)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        header = jpeg.read_header(data) if is_jpeg else None
    except jpeg.JpegError as error:
        raise _jpeg_error(error) from error
    except _PILLOW_ERRORS as error:
        if is_jpeg:
            raise _jpeg_error(jpeg.JpegError(str(error))) from error
        detail = f"neither JPEG, PNG, WebP, GIF nor BMP: begins with {data[:8]!r}"
        raise ImageError("not_an_image", detail) from error
    width, height = (header.width, header.height) if header else image.size
    return _Source(image, header, width, height)


def _orientation(image: Image.Image) -> tuple[bool, int]:
    """By EXIF: whether the image is mirrored, and the quarter turns to the left that follow."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _PILLOW_ERRORS:
        orientation = 1  # damaged EXIF says nothing about the pixels
    return orientation in (2, 4, 5, 7), _QUARTER_TURNS.get(orientation, 0)


def _target_size(source: _Source, recipe: ImageRecipe) -> tuple[int, int]:
    """(width, height) that the image is brought to, before orientation and crop."""
    wanted = None if recipe.untouched else recipe.crop or recipe.shorter_side
    shortest = min(source.size)
    if wanted is None or shortest == wanted or (shortest < wanted and not recipe.upscale):
        return source.size
    scale = wanted / shortest
    return max(1, round(source.width * scale)), max(1, round(source.height * scale))


def _keeps_bytes(
    source: _Source, recipe: ImageRecipe, target: tuple[int, int], is_turned: bool
) -> bool:
    if recipe.untouched:
        return source.format in ("JPEG", "PNG")
    return (
        source.jpeg is not None
        and source.jpeg.is_common
        and source.image.mode == "RGB"
        and target == source.size
        and not is_turned
        and (not recipe.crop or source.width == source.height)
    )


def _decode_divisor(source: _Source, target: tuple[int, int]) -> int:
    """1, 2, 4 or 8: the fraction of its size that the image is decoded at."""
    ratio = min(source.width / target[0], source.height / target[1])
    if not source.jpeg or ratio < 2:
        return 1
    return max(d for d in (1, 2, 4, 8) if d == 1 or ratio / d >= _SCALED_DECODE_RATIO)


def _check_limits(data: bytes, source: _Source, target: tuple[int, int], divisor: int) -> None:
    num_pixels = source.width * source.height
    size = f"{source.width} x {source.height} pixels"
    if num_pixels > MAX_IMAGE_PIXELS:
        raise ImageError("too_many_pixels", f"{size}; limit: {MAX_IMAGE_PIXELS} of them")
    if max(target) > MAX_SIDE:
        raise ImageError("too_many_pixels", f"{size}; limit of a side: {MAX_SIDE}")
    decoded_pixels = num_pixels / divisor**2 if source.jpeg else num_pixels
    num_bytes = _BYTES_A_PIXEL[source.format] * max(decoded_pixels, target[0] * target[1])
    if source.jpeg and source.jpeg.is_buffered:
        num_bytes += _BYTES_A_COEFFICIENT * len(source.jpeg.component_ids) * num_pixels
    if num_bytes > MAX_WORKING_BYTES:
        needs = f"decoding takes {num_bytes / 2**20:.0f} MiB"
        raise ImageError(
            "too_many_pixels", f"{size}; {needs}, limit: {MAX_WORKING_BYTES >> 20} MiB"
        )


def _decode_jpeg(data: bytes, header: jpeg.Header, divisor: int) -> jpeg.Decoded:
    num_scans = jpeg.num_scans(data, header)
    if num_scans > jpeg.MAX_SCANS:
        raise ImageError("corrupt_jpeg", f"{num_scans} scans; limit: {jpeg.MAX_SCANS}")
    try:
        return jpeg.decode(data, header, divisor)
    except jpeg.JpegError as error:
        raise _jpeg_error(error) from error


def _load(source: _Source, data: bytes) -> None:
    """Has Pillow decode the pixels of what is no JPEG."""
    try:
        if source.format == "PNG":  # whose checksums are not looked at while decoding
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()
        source.image.load()
    except _PILLOW_ERRORS as error:
        raise ImageError("corrupt_image", f"{source.format}: {error}") from error


def _jpeg_error(error: jpeg.JpegError) -> ImageError:
    return ImageError("truncated_jpeg" if error.is_truncated else "corrupt_jpeg", str(error))


def _rgb(image: Image.Image) -> np.ndarray:
    """uint8 [height, width, 3] of a loaded image, converted in strips to spare memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _STRIP_ROWS):
        bottom = min(image.height, top + _STRIP_ROWS)
        pixels[top:bottom] = _strip_rgb(image.crop((0, top, image.width, bottom)))
    return pixels


def _strip_rgb(strip: Image.Image) -> np.ndarray:
    if strip.mode.startswith("I;16"):  # Pillow would clip, not scale
        values = np.asarray(strip)
        gray = np.where(values == strip.info.get("transparency"), 255, values >> 8)
        return gray.astype(np.uint8)[:, :, np.newaxis]
    if strip.mode in _OPAQUE_MODES and "transparency" not in strip.info:
        return np.asarray(strip.convert("RGB"))
    layer = strip.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return np.asarray(Image.alpha_composite(paper, layer).convert("RGB"))


def _centre(pixels: np.ndarray, crop: int) -> np.ndarray:
    """The square of `crop` pixels in the middle, or of the shorter side where that is less."""
    height, width, _ = pixels.shape
    side = min(height, width, crop)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
