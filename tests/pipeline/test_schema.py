import numpy as np
import pytest

from pipeline import schema

tf = pytest.importorskip("tensorflow")

CASES = [
    ("a", b"\xff\xd8jpeg", ()),
    ("photos/1.jpg", b"x" * 70_000, (0,)),
    ("fotografía/ñ", b"", (0, 1, 127, 128, 16_999, 2**40)),
]


@pytest.mark.parametrize(("image_id", "image", "labels"), CASES)
def test_tensorflow_parses_what_encode_writes(image_id, image, labels):
    features = tf.io.parse_single_example(
        schema.encode(image_id, image, labels),
        {
            schema.IMAGE: tf.io.FixedLenFeature([], tf.string),
            schema.IMAGE_ID: tf.io.FixedLenFeature([], tf.string),
            schema.LABELS: tf.io.VarLenFeature(tf.int64),
        },
    )
    assert features[schema.IMAGE].numpy() == image
    assert features[schema.IMAGE_ID].numpy().decode() == image_id
    np.testing.assert_array_equal(features[schema.LABELS].values, np.array(labels, np.int64))


@pytest.mark.parametrize(("image_id", "image", "labels"), CASES)
def test_decode_reads_what_tensorflow_writes(image_id, image, labels):
    def bytes_feature(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    example = tf.train.Example(
        features=tf.train.Features(
            feature={
                "labels": tf.train.Feature(int64_list=tf.train.Int64List(value=labels)),
                "image_id": bytes_feature(image_id.encode()),
                "image": bytes_feature(image),
            }
        )
    )
    assert schema.decode(example.SerializeToString()) == (image_id, image, labels)


def test_labels_are_written_sorted_and_once():
    assert schema.decode(schema.encode("a", b"i", [5, 2, 5])).labels == (2, 5)


def test_a_negative_class_id_is_an_error():
    with pytest.raises(schema.SchemaError, match="-1"):
        schema.encode("a", b"i", [-1])


@pytest.mark.parametrize("record", [b"", b"\xff\xff\xff", b"not an example", b"\x0a\x05ab"])
def test_bytes_that_are_no_example_are_an_error(record):
    with pytest.raises(schema.SchemaError):
        schema.decode(record)


def test_every_truncation_of_a_record_is_an_error():
    record = schema.encode("id", b"image", [1, 300])
    for length in range(len(record)):
        with pytest.raises(schema.SchemaError):
            schema.decode(record[:length])
