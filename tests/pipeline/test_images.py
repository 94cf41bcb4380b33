import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features
from workplace import jpeg

from pipeline import images


def opened(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    return image


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def reason(data, **options):
    with pytest.raises(images.ImageError) as caught:
        images.prepare(data, options.get("shorter_side"), 90)
    assert caught.value.reason in images.REASONS
    return caught.value.reason


def test_a_jpeg_of_the_right_size_keeps_its_bytes():
    data = jpeg(40, 30)
    assert images.prepare(data, None, 90) == data
    assert images.prepare(data, 30, 90) == data


def test_the_shorter_side_comes_down_and_the_ratio_stays():
    assert opened(images.prepare(jpeg(400, 300), 96, 90)).size == (128, 96)
    assert opened(images.prepare(jpeg(300, 1000), 96, 90)).size == (96, 320)


def test_nothing_is_enlarged():
    assert opened(images.prepare(jpeg(40, 30), 96, 90)).size == (40, 30)


@pytest.mark.parametrize("width", [100, 130, 150, 200, 260, 500, 900])
def test_a_resize_is_close_to_lanczos_of_the_whole_image(width):
    data = jpeg(width, width)
    expected = Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.LANCZOS)
    found = opened(images.prepare(data, 96, 95))
    error = np.asarray(found, float) - np.asarray(expected, float)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 35


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_jpegs_become_rgb(mode):
    data = jpeg(60, 40, mode=mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    found = np.asarray(opened(images.prepare(data, None, 95)), float)
    assert np.abs(found - expected).mean() < 5


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_are_read_by_their_content(format):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    data = saved(Image.new("RGB", (50, 40), (200, 30, 30)), format)
    found = opened(images.prepare(data, None, 95))
    assert found.size == (50, 40)
    assert np.abs(np.asarray(found, int)[20, 20] - (200, 30, 30)).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        image = Image.new("P", (20, 20), 0)
    found = np.asarray(opened(images.prepare(saved(image, "PNG", **options), None, 95)))
    assert found.min() > 245


def test_sixteen_bits_are_scaled_to_eight():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    data = saved(Image.fromarray(ramp), "PNG")
    found = np.asarray(opened(images.prepare(data, None, 95)), float)[:, :, 0]
    assert np.abs(found - ramp / 257).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_applies_it(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(64, 48, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = opened(images.prepare(data, None, 95))
    assert found.size == expected.size
    assert np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean() < 3
    assert found.getexif().get(0x0112, 1) == 1


def test_an_empty_file_is_refused():
    assert reason(b"") == "empty_file"


@pytest.mark.parametrize("data", [b"<html>404</html>", b"\x00" * 1000, b"GIF", b"II*\x00tiff"])
def test_what_is_no_image_is_refused(data):
    assert reason(data) == "not_an_image"


@pytest.mark.parametrize("shorter_side", [None, 24])
def test_a_truncated_jpeg_is_refused(shorter_side):
    data = jpeg(200, 150)
    assert reason(data[: len(data) // 2], shorter_side=shorter_side) == "truncated_jpeg"


def test_a_jpeg_cut_inside_its_header_is_refused():
    assert reason(jpeg(200, 150)[:100]) in ("truncated_jpeg", "corrupt_jpeg")


def test_a_truncated_png_is_refused():
    data = saved(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)), "PNG"
    )
    assert reason(data[: len(data) // 2]) == "corrupt_image"


def test_a_png_with_a_flipped_bit_is_refused():
    pixels = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    data = bytearray(saved(Image.fromarray(pixels), "PNG", compress_level=0))
    assert images.prepare(bytes(data), None, 90)
    data[len(data) // 2] ^= 1  # inside the pixels, which are stored as they are
    assert reason(bytes(data)) == "corrupt_image"


def test_damaged_exif_costs_nothing_and_says_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "a maker with a long name"
    one_entry, many = b"MM\0*\0\0\0\x08\0\x01", b"MM\0*\0\0\0\x08\0\x7f"
    data = jpeg(40, 30, exif=exif)
    assert one_entry in data
    path = tmp_path / "damaged.jpg"
    path.write_bytes(data.replace(one_entry, many))
    code = (
        "import sys, pathlib\n"
        "from pipeline import images\n"
        "images.prepare(pathlib.Path(sys.argv[1]).read_bytes(), 20, 90)\n"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", code, path]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_jpeg_whose_scan_is_overwritten_is_refused():
    data = bytearray(jpeg(200, 150))
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff\xd9" * 20
    assert reason(bytes(data)) in ("truncated_jpeg", "corrupt_jpeg")


def test_a_bomb_is_refused_by_its_header():
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        chunks += struct.pack(">I", len(body)) + kind + body + checksum
    assert reason(b"\x89PNG\r\n\x1a\n" + chunks) == "too_many_pixels"


def test_a_progressive_jpeg_has_a_lower_limit(monkeypatch):
    monkeypatch.setattr(images, "MAX_PROGRESSIVE_PIXELS", 10_000)
    assert reason(jpeg(200, 150, progressive=True), shorter_side=20) == "too_many_pixels"
    assert images.prepare(jpeg(200, 150), 20, 90)


def test_mutated_files_give_an_image_or_a_reason():
    rng = np.random.default_rng(0)
    sources = [jpeg(90, 70), jpeg(90, 70, progressive=True), jpeg(90, 70, mode="CMYK")]
    picture = Image.open(io.BytesIO(sources[0]))
    sources += [saved(picture, format) for format in ("PNG", "GIF", "BMP", "WEBP")]
    for trial in range(350):
        data = bytearray(sources[trial % len(sources)])
        for position in rng.integers(0, len(data), rng.integers(1, 8)):
            data[position] = rng.integers(256)
        if trial % 3 == 0:
            del data[rng.integers(len(data)) :]
        assert outcome(bytes(data)) in ("image", *images.REASONS)


def outcome(data):
    try:
        opened(images.prepare(data, 48, 90))
    except images.ImageError as error:
        return error.reason
    return "image"
