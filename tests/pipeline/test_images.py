import functools
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
from pipeline import jpeg as jpeg_files


def opened(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG"
    assert image.mode == "RGB"
    return image


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def prepared(data, shorter_side=None, quality=90, rotation=0, **recipe):
    return images.prepare(
        data,
        images.ImageRecipe(shorter_side=shorter_side, jpeg_quality=quality, **recipe),
        rotation,
    )


def made(data, *arguments, **recipe):
    return prepared(data, *arguments, **recipe).image


def reason(data, **recipe):
    with pytest.raises(images.ImageError) as caught:
        prepared(data, **recipe)
    assert caught.value.reason in images.REASONS
    return caught.value.reason


def test_a_jpeg_of_the_right_size_keeps_its_bytes():
    data = jpeg(40, 30)
    assert made(data, None, 90) == data
    assert made(data, 30, 90) == data


def test_the_shorter_side_comes_down_and_the_ratio_stays():
    assert opened(made(jpeg(400, 300), 96, 90)).size == (128, 96)
    assert opened(made(jpeg(300, 1000), 96, 90)).size == (96, 320)


def test_nothing_is_enlarged():
    assert opened(made(jpeg(40, 30), 96, 90)).size == (40, 30)


@pytest.mark.parametrize("width", [100, 130, 150, 200, 260, 500, 900])
def test_a_resize_is_close_to_lanczos_of_the_whole_image(width):
    data = jpeg(width, width)
    expected = Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.LANCZOS)
    found = opened(made(data, 96, 95))
    error = np.asarray(found, float) - np.asarray(expected, float)
    assert 10 * np.log10(255**2 / np.mean(error**2)) > 35


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_jpegs_become_rgb(mode):
    data = jpeg(60, 40, mode=mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
    found = np.asarray(opened(made(data, None, 95)), float)
    assert np.abs(found - expected).mean() < 5


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_are_read_by_their_content(format):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    data = saved(Image.new("RGB", (50, 40), (200, 30, 30)), format)
    found = opened(made(data, None, 95))
    assert found.size == (50, 40)
    assert np.abs(np.asarray(found, int)[20, 20] - (200, 30, 30)).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_on_white(mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    if mode == "P":
        image = Image.new("P", (20, 20), 0)
    found = np.asarray(opened(made(saved(image, "PNG", **options), None, 95)))
    assert found.min() > 245


def test_sixteen_bits_are_scaled_to_eight():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    data = saved(Image.fromarray(ramp), "PNG")
    found = np.asarray(opened(made(data, None, 95)), float)[:, :, 0]
    assert np.abs(found - ramp / 257).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_applies_it(orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(64, 48, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = opened(made(data, None, 95))
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
    assert made(bytes(data), None, 90)
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
        "images.prepare(pathlib.Path(sys.argv[1]).read_bytes(), images.ImageRecipe(20))\n"
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
    monkeypatch.setattr(images, "MAX_WORKING_BYTES", 100_000)
    assert reason(jpeg(200, 150, progressive=True), shorter_side=20) == "too_many_pixels"
    assert made(jpeg(200, 150), 20, 90)


def photograph(width, height, mode="RGB"):
    """Smooth, and different everywhere."""
    return Image.open(io.BytesIO(jpeg(width, height, mode=mode)))


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)


def test_a_crop_is_the_centre_of_the_resized_image():
    data = jpeg(400, 300)
    resized = pixels_of(made(data, 96, 95))  # 128 x 96
    cropped = pixels_of(made(data, None, 95, crop=96))
    assert cropped.shape == (96, 96, 3)
    assert np.abs(cropped - resized[:, 16:112]).mean() < 2


def test_a_crop_takes_the_centre_square_of_a_smaller_image():
    assert opened(made(jpeg(60, 40), crop=96)).size == (40, 40)
    assert opened(made(jpeg(60, 120), crop=80)).size == (60, 60)


def test_a_square_that_is_cropped_to_its_own_size_keeps_its_bytes():
    assert made(jpeg(50, 50), crop=50) == jpeg(50, 50)
    assert made(jpeg(40, 40), crop=50) == jpeg(40, 40)


def test_upscaling_enlarges_to_the_target():
    data = jpeg(40, 30)
    assert opened(made(data, 96, 90, upscale=True)).size == (128, 96)
    assert opened(made(data, crop=96, upscale=True)).size == (96, 96)
    expected = np.asarray(photograph(40, 30).resize((128, 96), Image.Resampling.BICUBIC), float)
    assert np.abs(pixels_of(made(data, 96, 95, upscale=True)) - expected).mean() < 3


def test_the_recorded_size_is_the_sources_as_seen_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert prepared(jpeg(400, 300), 96)[1:] == (400, 300, False)
    assert prepared(jpeg(400, 300), 96, rotation=90)[1:] == (300, 400, False)
    assert prepared(jpeg(400, 300, exif=exif), crop=96)[1:] == (300, 400, False)
    assert prepared(jpeg(400, 300, exif=exif), 96, rotation=270)[1:] == (400, 300, False)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("orientation", [1, 5, 6])
def test_the_sources_rotation_counter_clockwise_follows_exif(orientation, rotation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(64, 48, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    expected = np.asarray(upright.rotate(rotation, expand=True), float)  # Pillow's is to the left
    found = pixels_of(made(data, None, 95, rotation=rotation))
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_untouched_jpegs_keep_their_bytes_whatever_their_mode_size_and_orientation(mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(300, 200, mode=mode, exif=exif)
    assert prepared(data, untouched=True, rotation=90) == (data, 300, 200, False)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "I;16"])
def test_untouched_pngs_keep_their_bytes(mode):
    image = Image.new(mode, (50, 40)) if mode == "I;16" else photograph(50, 40).convert(mode)
    data = saved(image, "PNG")
    assert prepared(data, untouched=True) == (data, 50, 40, False)


@pytest.mark.parametrize("format", ["GIF", "BMP", "WEBP"])
def test_other_formats_become_jpeg_at_full_size_where_nothing_is_touched(format):
    data = saved(photograph(300, 200), format)
    assert opened(made(data, untouched=True)).size == (300, 200)


def test_untouched_files_are_checked_all_the_same():
    png = bytearray(saved(photograph(90, 90), "PNG"))
    png[len(png) // 2] ^= 1
    assert reason(bytes(png), untouched=True) == "corrupt_image"
    assert reason(jpeg(90, 90)[:-50], untouched=True) == "truncated_jpeg"
    assert reason(jpeg(90, 90, mode="CMYK")[:-50], untouched=True) == "truncated_jpeg"


JPEG_KINDS = [
    {},
    {"progressive": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 3, "progressive": True},
    {"mode": "L"},
    {"mode": "CMYK"},
]


@pytest.mark.parametrize("kind", JPEG_KINDS)
@pytest.mark.parametrize("num_missing", [1, 2])
def test_a_missing_end_marker_is_put_back(kind, num_missing):
    data = jpeg(200, 150, **kind)
    cut = prepared(data[:-num_missing], untouched=True)
    assert cut.salvaged
    assert cut.image.endswith(b"\xff\xd9")
    assert np.array_equal(pixels_of(cut.image), pixels_of(data))
    resized = prepared(data[:-num_missing], 32)
    assert resized.salvaged
    assert resized.image == made(data, 32)


@pytest.mark.parametrize("kind", JPEG_KINDS)
def test_a_jpeg_cut_anywhere_before_its_end_marker_is_refused(kind):
    data = jpeg(120, 90, **kind)
    for num_missing in range(3, len(data)):
        try:
            prepared(data[:-num_missing], untouched=True)
        except images.ImageError as error:
            found = error.reason
        else:
            found = "image"
        assert found in ("truncated_jpeg", "corrupt_jpeg", "not_an_image"), num_missing


def test_scans_that_are_missing_altogether_are_no_missing_end_marker():
    data = jpeg(200, 150, progressive=True)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 3
    for start in starts[1:]:
        whole_scans = data[:start]
        tables = whole_scans.rfind(b"\xff\xc4")  # of the scan that is missing
        assert reason(data[:tables]) == "truncated_jpeg"
        assert reason(whole_scans) in ("truncated_jpeg", "corrupt_jpeg")


@pytest.mark.parametrize(
    "between", [b"", b"\xff\xfe\0\4\xff\xd9", b"\xff\xfe\0\4\xff\xda", b"\xff\xfe\0\0", b"\xff\xff"]
)
def test_scans_are_counted_as_the_decoder_finds_them(between):
    """A comment may hold what looks like a marker; Pillow writes ten scans."""
    data = jpeg(200, 150, progressive=True)
    last = data.rfind(b"\xff\xda")
    with_comment = data[:last] + between + data[last:]
    assert jpeg_files.num_scans(with_comment, jpeg_files.read_header(with_comment)) == 10
    assert prepared(with_comment, untouched=True).image == with_comment
    bomb = with_comment[:-2] + data[last:-2] * 300 + data[-2:]
    assert reason(bomb) == "corrupt_jpeg"
    with pytest.raises(images.ImageError, match="310 scans; limit: 200"):
        prepared(bomb)


def test_a_missing_end_marker_is_put_back_behind_a_comment_that_holds_one():
    data = jpeg(200, 150, progressive=True)
    last = data.rfind(b"\xff\xda")
    whole = data[:last] + b"\xff\xfe\0\4\xff\xd9" + data[last:]
    cut = prepared(whole[:-2], untouched=True)
    assert cut.salvaged
    assert cut.image == whole


def test_inverted_cmyk_and_ycck_are_read_as_pillow_reads_them():
    data = jpeg(60, 40, mode="CMYK")
    adobe = data.index(b"Adobe")
    for transform in (0, 2):
        changed = data[: adobe + 11] + bytes([transform]) + data[adobe + 12 :]
        expected = pixels_of(changed)
        assert np.abs(pixels_of(made(changed, None, 100)) - expected).mean() < 5


def test_sixteen_bit_colours_are_scaled_to_eight():
    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32768, 256) * 8 for _ in range(8))
    data = png((8, 8, 16, 2), rows)
    found = pixels_of(made(data, None, 95))
    assert np.abs(found - (255, 128, 1)).max() < 4


def test_a_transparent_gray_of_sixteen_bits_is_white():
    rows = b"".join(b"\0" + struct.pack(">8H", *[7] * 8) for _ in range(8))
    data = png((8, 8, 16, 0), rows, (b"tRNS", struct.pack(">H", 7)))
    assert pixels_of(made(data)).min() > 250


def png(header, rows, *chunks):
    """A PNG; `header`: width, height, bits and colour type."""
    made_of = [(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *chunks]
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in [*made_of, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]:
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_text_that_unpacks_to_gigabytes_costs_little(kind):
    packed = zlib.compress(bytes(100_000_000))
    body = {
        b"zTXt": b"name\0\0" + packed,
        b"iTXt": b"name\0\1\0\0\0" + packed,
        b"iCCP": b"name\0\0" + packed,
    }[kind]
    data = png((8, 8, 8, 0), b"\0" * 72, (kind, body))
    megabytes, _ = cost(data, {})
    assert megabytes < 60


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_taken(format):
    red, blue = Image.new("RGB", (30, 20), (200, 0, 0)), Image.new("RGB", (30, 20), (0, 0, 200))
    data = saved(red, format, save_all=True, append_images=[blue])
    assert np.abs(pixels_of(made(data, None, 95))[10, 10] - (200, 0, 0)).max() < 12


def cost(data, recipe):
    """Megabytes that an image takes at most in a process of its own, and what becomes of it."""
    code = (
        "import io, resource, sys\n"
        "from PIL import Image\n"
        "from pipeline import images\n"
        "small = io.BytesIO()\n"
        "Image.new('RGB', (64, 64)).save(small, 'JPEG')\n"
        "images.prepare(small.getvalue(), images.ImageRecipe(20))\n"
        "data = sys.stdin.buffer.read()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "try:\n"
        f"    outcome = images.prepare(data, images.ImageRecipe(**{recipe!r})).width\n"
        "except images.ImageError as error:\n"
        "    outcome = error.reason\n"
        "print((peak() - before) / 1024, outcome)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    assert finished.returncode == 0, finished.stderr.decode()
    megabytes, outcome = finished.stdout.decode().split()
    return float(megabytes), outcome


@functools.cache
def huge_jpeg(**options):
    """20,000 x 20,000 pixels: one row of blocks, over and over."""
    row = saved(photograph(20_000, 16), "JPEG", restart_marker_rows=1, subsampling=2, **options)
    size = row.index(struct.pack(">HH", 16, 20_000))
    scan = row.rindex(b"\xff\xda")
    pixels = scan + 2 + int.from_bytes(row[scan + 2 : scan + 4])
    blocks = [row[pixels:-2] + bytes([0xFF, 0xD0 + n % 8]) for n in range(1250)]
    header = row[:size] + struct.pack(">H", 20_000) + row[size + 2 : pixels]
    return header + b"".join(blocks)[:-2] + b"\xff\xd9"


@pytest.mark.parametrize("recipe", [{"shorter_side": 299}, {"crop": 299}, {"untouched": True}, {}])
def test_a_jpeg_of_400_megapixels_takes_less_than_300_megabytes(recipe):
    megabytes, outcome = cost(huge_jpeg(), recipe)
    assert outcome == "20000"
    assert megabytes < 300


def huge_png():
    """20,000 x 20,000 black pixels; its EXIF could stand after them."""
    num_bytes = 20_000 * 60_001
    packer = zlib.compressobj()
    first = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(num_bytes % 10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = struct.pack(">I", num_bytes % 65521 << 16 | 1)
    stream = first + again * (num_bytes // 10**6 - 1) + rest + b"\x03\0" + checksum
    data = png((20_000, 20_000, 8, 2), b"").replace(zlib.compress(b""), stream)
    at = data.index(b"IDAT")
    chunk = data[at : at + 4 + len(stream)]
    return b"".join(
        (data[: at - 4], struct.pack(">I", len(stream)), chunk,
         struct.pack(">I", zlib.crc32(chunk)), data[at + 4 + len(stream) + 4 :])
    )  # fmt: skip


def huge_webp():
    data = saved(Image.new("RGB", (8, 8)), "WEBP", lossless=True)
    size = data.index(b"VP8L") + 9  # 14 bits each, less one
    bits = int.from_bytes(data[size : size + 4], "little") >> 28 << 28 | 16_382 << 14 | 16_382
    return data[:size] + struct.pack("<I", bits) + data[size + 4 :]


def huge_bmp():
    data = saved(Image.new("RGB", (8, 8)), "BMP")
    return data[:18] + struct.pack("<ii", 20_000, 20_000) + data[26:]


def huge_gif():
    data = saved(Image.new("P", (8, 8)), "GIF")
    frame = data.rindex(b",\0\0\0\0") + 5
    size = struct.pack("<HH", 20_000, 20_000)
    return data[:6] + size + data[10:frame] + size + data[frame + 4 :]


def huge_scans():
    """Baseline, but a scan a component: every coefficient would be kept."""
    return huge_jpeg().replace(b"\xff\xda", b"\xff\xda\0\x08\1\1\0\0\x3f\0\xff\xda", 1)


def huge_first_scan():
    """Progressive, and its one scan holds the coefficients that others would refine."""
    data = huge_jpeg(progressive=1)
    return data[: data.index(b"\xff\xda") + 14] + b"\xff\xd9"


@pytest.mark.parametrize("recipe", [{"shorter_side": 299}, {"untouched": True}])
@pytest.mark.parametrize(
    "huge",
    [
        huge_png,
        huge_webp,
        huge_bmp,
        huge_gif,
        huge_scans,
        lambda: huge_jpeg(progressive=1),
        huge_first_scan,
    ],
)
def test_what_would_take_too_much_memory_is_refused_before_it_is_decoded(huge, recipe):
    megabytes, outcome = cost(huge(), recipe)
    assert outcome == "too_many_pixels"
    assert megabytes < 60
