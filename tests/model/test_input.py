"""What the network gets to see of the shards."""

import io
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from model import config as config_module
from model import input as input_module
from pipeline import metadata


@pytest.fixture(scope="module")
def config():
    return config_module.load_preset("demo", ["input.batch_size=16", "input.image_size=40"])


def _jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def test_evaluation_reads_each_example_once_in_the_order_of_the_shards(config, shards):
    split = metadata.load_split(shards, "eval")
    batches = list(input_module.evaluation_dataset(config, split.shard_paths, 16))
    ids = [image_id for batch in batches for image_id in batch[0].numpy()]
    raw = [
        tf.train.Example.FromString(record.numpy()).features.feature["image_id"].bytes_list.value[0]
        for path in split.shard_paths
        for record in tf.data.TFRecordDataset(path)
    ]
    assert ids == raw
    assert len(set(ids)) == 60
    assert [len(batch[0]) for batch in batches] == [16, 16, 16, 12]


def test_labels_are_those_of_the_records_padded_with_minus_one(config, shards):
    split = metadata.load_split(shards, "eval")
    counts = Counter()
    for _, _, _, labels in input_module.evaluation_dataset(config, split.shard_paths, 16):
        counts.update(labels.numpy().ravel().tolist())
    del counts[-1]
    assert counts == {c: n for c, n in enumerate(split.class_counts.tolist()) if n}


def test_training_batches_are_full_scaled_and_endless(config, shards):
    split = metadata.load_split(shards, "train")
    iterator = iter(input_module.training_dataset(config, split.shard_paths))
    for _ in range(20):  # 320 images of 240
        images, labels = next(iterator)
        assert images.shape == (16, 40, 40, 3)
        assert images.dtype == tf.float32
        assert labels.shape[0] == 16
        assert -1.0 <= float(tf.reduce_min(images)) < -0.2
        assert 0.2 < float(tf.reduce_max(images)) <= 1.0


def test_two_passes_come_in_different_orders(config, shards):
    paths = metadata.load_split(shards, "train").shard_paths

    def first_labels():
        return next(iter(input_module.training_dataset(config, paths)))[1].numpy().tolist()

    assert first_labels() != first_labels()


def test_the_central_crop_is_the_middle_of_the_shorter_side():
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[10:30, 40:60] = 255  # the middle half of the 40 x 40 in the centre
    image = input_module.central_crop(tf.constant(_jpeg(pixels)), 20, 0.5).numpy()
    assert image.shape == (20, 20, 3)
    assert image.min() > 0.9


def test_a_random_crop_keeps_at_least_the_share_of_the_area_that_is_asked_for():
    # Every column has its own brightness, so the crop's extent can be read off its pixels.
    pixels = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0)
    jpeg = tf.constant(_jpeg(np.repeat(pixels, 3, axis=2)))
    for _ in range(20):
        image = input_module.random_resized_crop(jpeg, 50, 0.5, flip=True).numpy()
        columns = (image[:, :, 0].max() - image[:, :, 0].min()) * 127.5
        # At an aspect of at least 3/4 and half of the area: a width of sqrt(20,000 * 3/4) = 122.
        assert 115 <= columns <= 200


def test_gray_values_map_to_minus_one_and_one():
    for value, expected in ((0, -1.0), (255, 1.0)):
        jpeg = tf.constant(_jpeg(np.full((30, 30, 3), value, np.uint8)))
        np.testing.assert_allclose(input_module.central_crop(jpeg, 30, 1.0), expected, atol=1e-6)
