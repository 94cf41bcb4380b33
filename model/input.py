"""TFRecord shards in, batches of images and labels out.

Training reads an endless stream in random order: shards are shuffled anew on each pass, several
are read at once, and a buffer mixes their examples (the pipeline wrote them in random order
already). Evaluation reads each example once, in the order of the shards.
"""

import os

import tensorflow as tf

from pipeline import schema


def training_dataset(config, shard_paths):
    """An endless dataset of (images, labels).

    images: float32 [batch, size, size, 3] in [-1, 1]; labels: int64 [batch, max_labels], padded
    with -1. Every process that iterates it draws an order of its own.
    """
    settings = config.input
    shards = tf.data.Dataset.from_tensor_slices(list(shard_paths))
    dataset = (
        shards.shuffle(len(shard_paths))
        .repeat()
        .interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(len(shard_paths), 8),
            num_parallel_calls=2,
            deterministic=False,
        )
        .shuffle(settings.shuffle_buffer)
        .map(
            lambda record: _training_example(settings, record),
            num_parallel_calls=_decode_threads(settings),
            deterministic=False,
        )
    )
    return _batch(dataset, settings).with_options(_options(settings))


def evaluation_dataset(config, shard_paths, batch_size):
    """A dataset of (ids [b], jpegs [b], images [b, size, size, 3], labels [b, max_labels])."""
    settings = config.input

    def example(record):
        parsed = _parse(record)
        image = central_crop(parsed[schema.IMAGE], settings.image_size, settings.eval_crop)
        return parsed[schema.IMAGE_ID], parsed[schema.IMAGE], image, parsed[schema.LABELS]

    dataset = (
        tf.data.Dataset.from_tensor_slices(list(shard_paths))
        .flat_map(tf.data.TFRecordDataset)
        .map(example, num_parallel_calls=_decode_threads(settings))
        .padded_batch(batch_size, padding_values=(None, None, None, tf.constant(-1, tf.int64)))
        .prefetch(2)
    )
    return dataset.with_options(_options(settings))


def random_resized_crop(jpeg, size, min_area, flip):
    """A random part of the image, at least `min_area` of it, as the Inception lineage trains.

    Decodes only the crop. Returns float32 [size, size, 3] in [-1, 1].
    """
    shape = tf.image.extract_jpeg_shape(jpeg)
    begin, crop_size, _ = tf.image.sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        use_image_if_no_bounding_boxes=True,
        min_object_covered=0.0,
        area_range=(min_area, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
    )
    window = tf.concat([begin[:2], crop_size[:2]], axis=0)
    image = _decode_crop(jpeg, window, size)
    return tf.image.random_flip_left_right(image) if flip else image


def central_crop(jpeg, size, share):
    """The central square, `share` of the shorter side long. float32 [size, size, 3] in [-1, 1]."""
    shape = tf.image.extract_jpeg_shape(jpeg)
    height, width = shape[0], shape[1]
    side = tf.cast(tf.round(tf.cast(tf.minimum(height, width), tf.float32) * share), tf.int32)
    side = tf.maximum(side, 1)
    window = tf.stack([(height - side) // 2, (width - side) // 2, side, side])
    return _decode_crop(jpeg, window, size)


def _training_example(settings, record):
    parsed = _parse(record)
    image = random_resized_crop(
        parsed[schema.IMAGE], settings.image_size, settings.min_crop_area, settings.flip
    )
    return image, parsed[schema.LABELS]


def _parse(record):
    parsed = tf.io.parse_single_example(
        record,
        {
            schema.IMAGE: tf.io.FixedLenFeature([], tf.string),
            schema.IMAGE_ID: tf.io.FixedLenFeature([], tf.string),
            schema.LABELS: tf.io.VarLenFeature(tf.int64),
        },
    )
    parsed[schema.LABELS] = tf.sparse.to_dense(parsed[schema.LABELS])
    return parsed


def _decode_crop(jpeg, window, size):
    # TensorFlow's default DCT, the fast one, turns some white pixels of sharp images black.
    image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=3, dct_method="INTEGER_ACCURATE")
    image = tf.image.resize(image, [size, size], antialias=False)
    image.set_shape([size, size, 3])
    return image / 127.5 - 1.0


def _batch(dataset, settings):
    return dataset.padded_batch(
        settings.batch_size,
        padding_values=(None, tf.constant(-1, tf.int64)),
        drop_remainder=True,
    ).prefetch(2)


def _decode_threads(settings):
    return settings.decode_threads or os.cpu_count()


def _options(settings):
    options = tf.data.Options()
    options.threading.private_threadpool_size = _decode_threads(settings) + 1
    options.threading.max_intra_op_parallelism = 1
    return options
