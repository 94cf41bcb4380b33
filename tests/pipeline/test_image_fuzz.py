"""Damaged files by the thousand: each gives an image that decodes, or a reason.

In a process of its own, since a codec's native crash or hang would take the tests with it. To run
more of them, from photographs besides:

    python tests/pipeline/test_image_fuzz.py FIRST_SEED COUNT [PHOTOGRAPH ...]
"""

import collections
import faulthandler
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

ROOT = pathlib.Path(__file__).parents[2]
SECONDS_AN_IMAGE = 20
RECIPES = (
    {},
    {"shorter_side": 32},
    {"crop": 48},
    {"crop": 96, "upscale": True},
    {"untouched": True},
)


def originals():
    """Small files of every kind."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((88, 66), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a maker with a name"
    jpegs = [
        (picture, {}),
        (picture, {"progressive": True}),
        (picture, {"exif": exif, "restart_marker_rows": 1}),
        (picture, {"subsampling": 0, "icc_profile": b"\0" * 300, "comment": b"hello"}),
        (picture.convert("L"), {}),
        (picture.convert("CMYK"), {}),
        (picture.convert("CMYK"), {"progressive": True}),
    ]
    others = [
        ("PNG", picture, {}),
        ("PNG", picture.convert("RGBA"), {"exif": exif}),
        ("PNG", picture.quantize(16), {"transparency": 3}),
        ("PNG", picture.convert("1"), {}),
        ("PNG", Image.fromarray(rng.integers(0, 65536, (40, 30)).astype(np.uint16)), {}),
        ("GIF", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        ("GIF", picture.quantize(8), {"transparency": 1}),
        ("BMP", picture, {}),
        ("BMP", picture.convert("P"), {}),
    ]
    if features.check("webp"):
        others += [
            ("WEBP", picture, {}),
            ("WEBP", picture.convert("RGBA"), {"lossless": True, "exif": exif}),
            ("WEBP", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        ]
    for format, image, options in [("JPEG", *each) for each in jpegs] + others:
        stream = io.BytesIO()
        image.save(stream, format, **options)
        yield stream.getvalue()


def mutated(data, others, rng):
    """The file with one to three kinds of damage."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        other = others[rng.integers(len(others))]
        match rng.integers(9):
            case 0:  # flipped bits
                for position in rng.integers(0, max(1, len(data)), rng.integers(1, 9)):
                    if data:
                        data[position] ^= 1 << rng.integers(8)
            case 1:  # cut
                del data[at:]
            case 2:  # a hole
                del data[at : at + rng.integers(1, 200)]
            case 3:  # the head of one file, the rest of another
                start = int(rng.integers(len(other)))
                data[at:] = other[start:]
            case 4:  # the header
                for position in rng.integers(0, 64, 3):
                    if position < len(data):
                        data[position] = rng.integers(256)
            case 5:  # a run
                run = bytes([rng.integers(256)]) * int(rng.integers(1, 300))
                data[at:at] = run
            case 6:  # extreme numbers, as sizes and lengths are
                data[at : at + 4] = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"][rng.integers(3)]
            case 7:  # a marker
                data[at:at] = bytes([0xFF, rng.integers(0xC0, 0x100)])
            case 8:  # a piece twice
                data[at:at] = data[at : at + rng.integers(1, 400)]
    return bytes(data)


def main(first_seed, count, photographs):
    """Prints each seed before it is tried, and at the end what became of them all."""
    from pipeline import images

    files = list(originals()) + [pathlib.Path(path).read_bytes() for path in photographs]
    outcomes = collections.Counter()
    for seed in range(first_seed, first_seed + count):
        print(seed, flush=True)
        faulthandler.dump_traceback_later(SECONDS_AN_IMAGE, exit=True)
        rng = np.random.default_rng(seed)
        data = mutated(files[seed % len(files)], files, rng)
        recipe = images.ImageRecipe(**RECIPES[rng.integers(len(RECIPES))])
        try:
            prepared = images.prepare(data, recipe, rotation=90 * int(rng.integers(4)))
        except images.ImageError as error:
            outcomes[error.reason] += 1
            continue
        found = Image.open(io.BytesIO(prepared.image), formats=("JPEG", "PNG"))
        found.load()
        assert recipe.untouched or (found.format, found.mode) == ("JPEG", "RGB"), found
        assert prepared.width > 0 < prepared.height
        outcomes["salvaged" if prepared.salvaged else "image"] += 1
    assert set(outcomes) <= {"image", "salvaged", *images.REASONS}, outcomes
    print(dict(outcomes))


def run(first_seed, count):
    """What became of the files; fails with the seed of the one that broke it."""
    command = [sys.executable, __file__, str(first_seed), str(count)]
    finished = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    lines = finished.stdout.splitlines()
    assert finished.returncode == 0, f"seed {lines[-1]}: {finished.returncode}\n{finished.stderr}"
    return lines[-1]


def test_damaged_files_give_an_image_or_a_reason():
    outcomes = run(0, 1000)
    assert "'image'" in outcomes
    assert "corrupt" in outcomes


@pytest.mark.slow
def test_thousands_of_damaged_files_give_an_image_or_a_reason():
    assert "'image'" in run(1000, 6000)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
