import numpy as np
import pytest
from PIL import Image

from pipeline.resampling import resize


def texture(width, height):
    """Detail of every size, as photographs have it: its spectrum falls with the frequency."""
    rng = np.random.default_rng(0)
    x, y = np.fft.fftfreq(width), np.fft.fftfreq(height)[:, np.newaxis]
    spectrum = np.fft.fft2(rng.standard_normal((height, width))) / np.maximum(np.hypot(x, y), 0.002)
    gray = np.real(np.fft.ifft2(spectrum))
    gray = np.clip(128 + 45 * gray / gray.std(), 0, 255).astype(np.uint8)
    return np.stack([gray, gray[::-1], 255 - gray], axis=-1)


def decibels(found, expected):
    return 10 * np.log10(255**2 / np.mean((found.astype(float) - expected) ** 2))


@pytest.mark.parametrize(
    ("ratio", "least"),
    [(1.1, 38), (1.25, 34), (1.4, 44), (1.7, 41), (2.5, 40), (4.0, 40), (9.5, 40)],
)
def test_a_smaller_image_is_close_to_lanczos(ratio, least):
    pixels = texture(760, 570)
    size = (round(760 / ratio), round(570 / ratio))
    expected = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    assert decibels(resize(pixels, size), expected) > least


def test_a_flat_image_stays_flat():
    for value in (0, 7, 128, 255):
        pixels = np.full((200, 300, 3), value, np.uint8)
        for width in (20, 61, 100, 150, 220, 290, 400):
            assert set(np.unique(resize(pixels, (width, width)))) == {value}


def test_long_and_thin_images_are_resized():
    assert resize(texture(40_000, 4), (20_000, 2)).shape == (2, 20_000, 3)
    assert resize(texture(4, 1000), (1, 250)).shape == (250, 1, 3)
