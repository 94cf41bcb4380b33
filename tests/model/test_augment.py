"""What the network gets to see of an image."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from model import augment
from model.config import InputConfig


def _jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return tf.constant(buffer.getvalue())


def _columns(height=200, width=200):
    """A JPEG whose every column has its own brightness: what a crop holds can be read off it."""
    ramp = np.linspace(0, 199, width).astype(np.uint8)
    return _jpeg(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy())


def test_the_central_crop_is_the_middle_of_the_shorter_side():
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[10:30, 40:60] = 255  # the middle half of the 40 x 40 in the centre
    image = augment.central_crop(_jpeg(pixels), InputConfig(image_size=20, eval_crop=0.5)).numpy()
    assert image.shape == (20, 20, 3)
    assert image.min() > 0.9


def test_a_random_crop_keeps_at_least_the_share_of_the_area_that_is_asked_for():
    config = InputConfig(image_size=50, min_crop_area=0.5)
    for _ in range(20):
        image = augment.random_resized_crop(_columns(), config).numpy()
        columns = (image[:, :, 0].max() - image[:, :, 0].min()) * 127.5
        # At an aspect of at least 3/4 and half of the area: a width of sqrt(20,000 * 3/4) = 122.
        assert 115 <= columns <= 200


def test_crops_are_square_where_no_other_aspect_is_allowed():
    # A square within 200 x 100 is at most 100 wide: half of the columns, at most half of the range.
    config = InputConfig(image_size=50, min_crop_area=0.3, max_crop_aspect=1.0, flip=False)
    for _ in range(20):
        image = augment.random_resized_crop(_columns(height=100), config).numpy()
        columns = (image[:, :, 0].max() - image[:, :, 0].min()) * 127.5
        assert 65 <= columns <= 105  # sqrt(0.3 * 20,000) = 77 to 100 columns, less half a pixel


def test_flips_come_half_of_the_time_or_never():
    for flip, expected in ((True, 0.5), (False, 0.0)):
        config = InputConfig(image_size=10, min_crop_area=0.9, flip=flip)
        images = [augment.random_resized_crop(_columns(), config).numpy() for _ in range(60)]
        flipped = np.mean([image[5, 0, 0] > image[5, -1, 0] for image in images])
        assert abs(flipped - expected) <= 0.3  # 4.6 standard deviations of 60 coins


def test_gray_values_map_to_minus_one_and_one():
    config = InputConfig(image_size=30, eval_crop=1.0)
    for value, expected in ((0, -1.0), (255, 1.0)):
        jpeg = _jpeg(np.full((30, 30, 3), value, np.uint8))
        np.testing.assert_allclose(augment.central_crop(jpeg, config), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("interpolation", "of_pillow"),
    [
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("area", Image.Resampling.BOX),
    ],
)
def test_interpolation_is_the_one_that_is_asked_for(interpolation, of_pillow):
    # Enlarging, so that Pillow's antialiasing changes nothing; to an integer multiple for "area".
    # Gray values from which no curve overshoots: Pillow clips between its two passes.
    pixels = np.random.default_rng(0).integers(64, 192, (16, 16, 3), np.uint8)
    jpeg = _jpeg(pixels)
    decoded = Image.open(io.BytesIO(jpeg.numpy()))
    config = InputConfig(image_size=32, eval_crop=1.0, interpolation=interpolation)
    image = augment.central_crop(jpeg, config).numpy()
    expected = np.asarray(decoded.resize((32, 32), of_pillow)) / 127.5 - 1.0
    # Pillow rounds to gray values, of which one is 2/255. Bicubic borders are a matter of taste.
    inside = slice(4, -4)
    np.testing.assert_allclose(image[inside, inside], expected[inside, inside], atol=2.1 / 255)


def test_a_bicubic_curve_does_not_leave_the_range_at_edges():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 8:] = 255
    config = InputConfig(image_size=50, eval_crop=1.0, interpolation="bicubic")
    image = augment.central_crop(_jpeg(pixels), config).numpy()
    assert image.min() == -1.0
    assert image.max() == 1.0


def test_color_distortion_changes_every_image_and_stays_within_range():
    gray = tf.zeros([20, 20, 3])
    random = tf.random.stateless_uniform([20, 20, 3], [1, 2], -1.0, 1.0)
    for image in (gray, random):
        ones = [augment.distort_color(image).numpy() for _ in range(8)]
        assert all(np.abs(one).max() <= 1.0 for one in ones)
        assert len({one.tobytes() for one in ones}) == 8


def test_what_color_distortion_does_to_gray_is_brightness_alone():
    # Gray has no saturation and no hue, and a flat image no contrast: 0.5 +- 32/255 is left.
    means = []
    for _ in range(30):
        image = augment.distort_color(tf.zeros([4, 4, 3])).numpy()
        np.testing.assert_allclose(image, image[0, 0, 0], atol=1e-5)
        means.append(image[0, 0, 0])
    assert max(np.abs(means)) <= 2 * 32 / 255 + 1e-5
    assert min(means) < -0.03 < 0.03 < max(means)
