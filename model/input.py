"""TFRecord shards in, batches of images and of what is said of them out.

Training reads an endless stream in random order: shards are shuffled anew on each pass, several
are read at once, and a buffer mixes their examples (the pipeline wrote them in random order
already). The first shards are begun anywhere: a process that is ended and started again and again
would otherwise see the beginnings of shards more often than their ends. Evaluation reads each
example once, in the order of the shards.

Shards of an object store are read through copies on this host: see model.shard_cache.
"""

import numpy as np
import tensorflow as tf

from model import augment, losses, remote_shards, shard_cache
from pipeline import metadata, schema
from pipeline.cores import num_cores

SINGLE_LABEL_RULE = "loss.name=softmax_cross_entropy takes images with exactly one label."

# {feature: what a list of it is padded with}
_PADDING: dict[str, np.generic] = {
    schema.LABELS: np.int64(-1),
    schema.CONFIDENCES: np.float32(0.0),
    schema.NEGATIVES: np.int64(-1),
}


def forget_seed():
    """Makes the datasets that are traced from here on draw from the operating system's entropy.

    What `keras.utils.set_random_seed` does to the initial parameters reaches datasets, too: all
    workers would read the same images in the same order, and each again after a restart.
    """
    tf.random.set_seed(None)


def training_dataset(config, shard_paths, shard_lengths):
    """An endless dataset of (images, targets).

    `shard_lengths` says how many records each of the shards holds.

    images: float32 [batch, size, size, 3] in [-1, 1]; targets: {name: [batch, longest list]}, the
    features that the loss needs (losses.features) and no other. Every process that iterates it
    draws an order of its own, and another one each time that it starts: see forget_seed.

    Iterating raises InvalidArgumentError with SINGLE_LABEL_RULE and the image's id where the loss
    wants one label and an image has another number of them; DataLossError with the byte of the
    first damaged record that it meets; NotFoundError with the path of a shard that is gone; and
    UnknownError where a store gives none, see shard_cache.error_in.
    """
    settings = config.input
    features = losses.features(config.loss)
    dataset = (
        _records_in_random_order(settings, list(shard_paths), list(shard_lengths))
        .shuffle(settings.shuffle_buffer)
        .map(
            lambda record: _training_example(config, features, record),
            num_parallel_calls=_decode_threads(settings),
            deterministic=False,
        )
    )
    dataset = dataset.padded_batch(
        settings.batch_size,
        padding_values=(None, {name: _PADDING[name] for name in features}),
        drop_remainder=True,
    ).prefetch(2)
    return dataset.with_options(_options(settings, shard_paths))


def evaluation_dataset(settings, shard_paths, batch_size):
    """A dataset of (examples, images), each example once, in the order of the shards.

    images: float32 [b, size, size, 3] in [-1, 1]; examples: {schema.IMAGE_ID, schema.IMAGE: string
    [b]; schema.LABELS, schema.NEGATIVES: int64 [b, longest list], padded with -1}. `settings` is
    the configuration's `input`.
    """

    def example(record):
        parsed = _parse(record, [schema.LABELS, schema.NEGATIVES])
        return parsed, augment.central_crop(parsed[schema.IMAGE], settings)

    padding = {
        schema.IMAGE_ID: None,
        schema.IMAGE: None,
        schema.LABELS: _PADDING[schema.LABELS],
        schema.NEGATIVES: _PADDING[schema.NEGATIVES],
    }
    shards = tf.data.Dataset.from_tensor_slices((list(shard_paths),))
    if _are_remote(shard_paths):
        shards = remote_shards.fetched(shards, settings, deterministic=True)
    dataset = (
        shards.flat_map(tf.data.TFRecordDataset)
        .map(example, num_parallel_calls=_decode_threads(settings))
        .padded_batch(batch_size, padding_values=(padding, None))
        .prefetch(2)
    )
    return dataset.with_options(_options(settings, shard_paths))


def _records_in_random_order(settings, shard_paths, shard_lengths):
    """The records of several shards at a time, of those in turn."""
    cycle_length = min(len(shard_paths), shard_cache.NUM_READ)

    def begun(number, shard):
        """(path, how many of its records come last instead of first)."""
        path, length = shard
        anywhere = tf.random.uniform([], maxval=tf.maximum(length, 1), dtype=tf.int64)
        return path, tf.where(number < cycle_length, anywhere, 0)

    def records_around(path, first):
        records = tf.data.TFRecordDataset(path)
        return records.skip(first).concatenate(records.take(first))

    def copied_records_around(path, address, first):
        # Others may have taken the copy's place when its end is reached: it is asked for once more.
        again = tf.data.Dataset.from_tensors((address,))
        again = remote_shards.fetched(again, settings, deterministic=True)
        again = again.flat_map(tf.data.TFRecordDataset)
        return tf.data.TFRecordDataset(path).skip(first).concatenate(again.take(first))

    lengths = tf.constant(shard_lengths, tf.int64)
    shards = tf.data.Dataset.from_tensor_slices((shard_paths, lengths))
    shards = shards.shuffle(len(shard_paths)).repeat().enumerate().map(begun)
    if _are_remote(shard_paths):
        shards = shards.map(lambda address, first: (address, address, first))
        shards = remote_shards.fetched(shards, settings, deterministic=False)
        # A parallel one would open twice as many more ahead, and the cache hold those too.
        return shards.interleave(copied_records_around, cycle_length=cycle_length)
    return shards.interleave(
        records_around,
        cycle_length=cycle_length,
        num_parallel_calls=min(len(shard_paths), 2),
        deterministic=False,
    )


def _are_remote(shard_paths):
    return any(map(metadata.is_remote, shard_paths))


def _training_example(config, features, record):
    parsed = _parse(record, features)
    checks = []
    if config.loss.name == "softmax_cross_entropy":
        checks.append(_check_single_label(parsed))
    with tf.control_dependencies(checks):
        image = augment.random_resized_crop(parsed[schema.IMAGE], config.input)
    return image, {name: parsed[name] for name in features}


def _check_single_label(parsed):
    num_labels = tf.size(parsed[schema.LABELS])
    return tf.debugging.Assert(
        tf.equal(num_labels, 1),
        [SINGLE_LABEL_RULE, "Received:", parsed[schema.IMAGE_ID], "with", num_labels, "labels"],
    )


def _parse(record, features):
    """{name: tensor}: the image and its id, and of the lists only those in `features`."""
    parsed = tf.io.parse_single_example(
        record,
        {
            schema.IMAGE: tf.io.FixedLenFeature([], tf.string),
            schema.IMAGE_ID: tf.io.FixedLenFeature([], tf.string),
            **{name: tf.io.VarLenFeature(tf.as_dtype(_PADDING[name].dtype)) for name in features},
        },
    )
    for name in features:
        parsed[name] = tf.sparse.to_dense(parsed[name])
    return parsed


def _decode_threads(settings):
    return settings.decode_threads or num_cores()


def _options(settings, shard_paths):
    options = tf.data.Options()
    waiting = shard_cache.NUM_FETCHES if _are_remote(shard_paths) else 0
    options.threading.private_threadpool_size = _decode_threads(settings) + 1 + waiting
    options.threading.max_intra_op_parallelism = 1
    return options
