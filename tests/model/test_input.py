"""What the network gets to see of the shards."""

import io
import itertools
from collections import Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from model import config as config_module
from model import input as input_module
from pipeline import metadata, schema


@pytest.fixture(scope="module")
def config():
    return config_module.load_preset("demo", ["input.batch_size=16", "input.image_size=40"])


def _jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def test_evaluation_reads_each_example_once_in_the_order_of_the_shards(config, shards):
    split = metadata.load_split(shards, "eval")
    batches = list(input_module.evaluation_dataset(config.input, split.shard_paths, 16))
    ids = [image_id for examples, _ in batches for image_id in examples["image_id"].numpy()]
    raw = [
        tf.train.Example.FromString(record.numpy()).features.feature["image_id"].bytes_list.value[0]
        for path in split.shard_paths
        for record in tf.data.TFRecordDataset(path)
    ]
    assert ids == raw
    assert len(set(ids)) == 60
    assert [len(images) for _, images in batches] == [16, 16, 16, 12]


def test_labels_are_those_of_the_records_padded_with_minus_one(config, shards):
    split = metadata.load_split(shards, "eval")
    counts = Counter()
    for examples, _ in input_module.evaluation_dataset(config.input, split.shard_paths, 16):
        counts.update(examples["labels"].numpy().ravel().tolist())
    del counts[-1]
    assert counts == {c: n for c, n in enumerate(split.class_counts.tolist()) if n}


def test_training_batches_are_full_scaled_and_endless(config, shards):
    split = metadata.load_split(shards, "train")
    iterator = iter(input_module.training_dataset(config, split.shard_paths, split.shard_lengths))
    for _ in range(20):  # 320 images of 240
        images, targets = next(iterator)
        assert images.shape == (16, 40, 40, 3)
        assert images.dtype == tf.float32
        assert targets["labels"].shape[0] == 16
        assert -1.0 <= float(tf.reduce_min(images)) < -0.2
        assert 0.2 < float(tf.reduce_max(images)) <= 1.0


def test_every_process_draws_another_order_whatever_the_seed_of_the_parameters(config, shards):
    split = metadata.load_split(shards, "train")

    arguments = (config, split.shard_paths, split.shard_lengths)

    def first_labels():
        keras.utils.set_random_seed(0)  # as at the start of each process
        input_module.forget_seed()
        # Traced, as for a cluster's workers: a function takes the seed at hand into its graph.
        make = tf.function(lambda: input_module.training_dataset(*arguments).take(1))
        return [targets["labels"].numpy().tolist() for _, targets in make()]

    assert first_labels() != first_labels()


NUM_RECORDS = 40


@pytest.fixture(scope="module")
def numbered_shard(tmp_path_factory):
    """A shard whose images have one label each: their number in it."""
    path = tmp_path_factory.mktemp("numbered") / "images-train.tfrecord-00000-of-00001"
    image = _jpeg(np.zeros((8, 8, 3), np.uint8))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(NUM_RECORDS):
            example = schema.Example(
                image_id=str(number),
                image=image,
                labels=(number,),
                confidences=(1.0,),
                label_sources=("person",),
            )
            writer.write(schema.encode(example))
    return str(path)


def _numbers_in_order(shard, length=NUM_RECORDS):
    """What a start reads of a shard, an image a batch, in the shard's order."""
    config = config_module.load_preset(
        "demo",
        [
            *("input.batch_size=1", "input.image_size=8"),
            *("input.shuffle_buffer=1", "input.decode_threads=1"),
        ],
    )
    dataset = input_module.training_dataset(config, [shard], [length])
    return (int(targets["labels"].numpy().item()) for _, targets in dataset)


def test_starts_begin_anywhere_in_a_shard_and_read_all_of_it(numbered_shard):
    starts = []
    for _ in range(60):
        numbers = list(itertools.islice(_numbers_in_order(numbered_shard), NUM_RECORDS))
        assert numbers == [(numbers[0] + i) % NUM_RECORDS for i in range(NUM_RECORDS)]
        starts.append(numbers[0])
    # 60 starts of the uniform distribution all lie in the same half once in 2^59.
    assert min(starts) < NUM_RECORDS // 2 <= max(starts)
    assert len(set(starts)) > 20  # of 31 that are expected


def test_after_its_start_a_process_reads_shards_from_their_beginnings(numbered_shard):
    numbers = list(itertools.islice(_numbers_in_order(numbered_shard), 3 * NUM_RECORDS))
    assert numbers[NUM_RECORDS:] == list(range(NUM_RECORDS)) * 2


def test_a_shard_may_hold_fewer_records_than_is_said_of_it(numbered_shard):
    """As the copy of one does that was damaged."""
    numbers = list(itertools.islice(_numbers_in_order(numbered_shard, 10_000), NUM_RECORDS))
    assert sorted(numbers) == list(range(NUM_RECORDS))


@pytest.fixture(scope="module")
def single_shard(tmp_path_factory):
    """A shard of one image with two labels and three verified negatives."""
    path = tmp_path_factory.mktemp("single") / "images-train.tfrecord-00000-of-00001"
    example = schema.Example(
        image_id="scene/1",
        image=_jpeg(np.zeros((30, 40, 3), np.uint8)),
        labels=(2, 5),
        confidences=(0.25, 1.0),
        label_sources=("machine", "person"),
        negatives=(1, 3, 8),
        negative_sources=("person",) * 3,
    )
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(schema.encode(example))
    return str(path)


def _first_targets(single_shard, *overrides):
    config = config_module.load_preset(
        "demo", ["input.batch_size=2", "input.image_size=8", *overrides]
    )
    return next(iter(input_module.training_dataset(config, [single_shard], [1])))[1]


def test_negatives_and_confidences_come_when_the_loss_needs_them_alone(single_shard):
    assert _first_targets(single_shard).keys() == {"labels"}
    masked = _first_targets(single_shard, "loss.unknown_weight=0")
    assert masked.keys() == {"labels", "negatives"}
    np.testing.assert_array_equal(masked["negatives"], [[1, 3, 8]] * 2)
    weighted = _first_targets(single_shard, "loss.confidence=weight")
    assert weighted.keys() == {"labels", "confidences"}
    np.testing.assert_array_equal(weighted["labels"], [[2, 5]] * 2)
    np.testing.assert_array_equal(weighted["confidences"], np.float32([[0.25, 1.0]] * 2))


def test_softmax_refuses_an_image_with_two_labels_and_names_it(single_shard):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        _first_targets(single_shard, "loss.name=softmax_cross_entropy")
    assert input_module.SINGLE_LABEL_RULE in str(error.value)
    assert "scene/1" in str(error.value)
