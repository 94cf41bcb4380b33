import io
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline import metadata, schema, tfrecord
from pipeline.labels import Vocabulary
from pipeline.schema import Example, SchemaError

PLAIN = Example("a", b"\xff\xd8jpeg", (), (), ())
RICH = Example(
    image_id="photos/1.jpg",
    image=b"x" * 70_000,
    labels=(0, 127, 128, 16_999, 2**40),
    confidences=(1.0, 0.5, 0.25, 0.0625, 1.0),  # powers of two: the same as float32
    label_sources=("verification", "machine", "", "hierarchy", "Prüfung"),
    negatives=(1, 300),
    negative_sources=("verification", ""),
)
EMPTY_TEXTS = Example("fotografía/ñ", b"", (3,), (1.0,), ("",), (0,), ("",))
EXAMPLES = pytest.mark.parametrize(
    "example", [PLAIN, RICH, EMPTY_TEXTS], ids=["plain", "rich", "ñ"]
)


def message(example, leave_out=(), **replaced):
    """The example as TensorFlow's own protocol buffer."""
    tf = pytest.importorskip("tensorflow")

    def texts(values):
        values = [value.encode() if isinstance(value, str) else value for value in values]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    def int64s(values):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

    feature = {
        "image": texts([example.image]),
        "image_id": texts([example.image_id]),
        "labels": int64s(example.labels),
        "confidences": tf.train.Feature(float_list=tf.train.FloatList(value=example.confidences)),
        "label_sources": texts(example.label_sources),
        "negatives": int64s(example.negatives),
        "negative_sources": texts(example.negative_sources),
        **replaced,
    }
    for name in leave_out:
        del feature[name]
    return tf.train.Example(features=tf.train.Features(feature=feature))


@EXAMPLES
def test_what_is_encoded_decodes_to_the_same(example):
    assert schema.decode(schema.encode(example)) == example


@EXAMPLES
def test_the_bytes_are_those_of_protobuf_with_the_features_in_the_order_of_their_names(example):
    tf = pytest.importorskip("tensorflow")
    features = message(example).features.feature
    entries = b"".join(
        tf.train.Features(feature={name: features[name]}).SerializeToString()
        for name in sorted(features)
    )
    # An Example has its features where a BytesList has its values.
    assert schema.encode(example) == tf.train.BytesList(value=[entries]).SerializeToString()


@EXAMPLES
def test_decode_reads_what_tensorflow_writes_in_any_order(example):
    assert schema.decode(message(example).SerializeToString()) == example


def test_tensorflow_parses_what_encode_writes():
    tf = pytest.importorskip("tensorflow")
    found = tf.io.parse_single_example(
        schema.encode(RICH),
        {
            "image": tf.io.FixedLenFeature([], tf.string),
            "image_id": tf.io.FixedLenFeature([], tf.string),
            "labels": tf.io.VarLenFeature(tf.int64),
            "confidences": tf.io.VarLenFeature(tf.float32),
            "label_sources": tf.io.VarLenFeature(tf.string),
            "negatives": tf.io.VarLenFeature(tf.int64),
            "negative_sources": tf.io.VarLenFeature(tf.string),
        },
    )
    assert found["image"].numpy() == RICH.image
    assert found["image_id"].numpy().decode() == RICH.image_id
    for name in ("labels", "confidences", "negatives"):
        np.testing.assert_array_equal(found[name].values, getattr(RICH, name))
    for name in ("label_sources", "negative_sources"):
        texts = [text.decode() for text in found[name].values.numpy()]
        assert tuple(texts) == getattr(RICH, name)


def test_a_feature_without_a_list_holds_nothing():
    tf = pytest.importorskip("tensorflow")
    nothing = tf.train.Feature()
    record = message(PLAIN, negatives=nothing, label_sources=nothing).SerializeToString()
    assert schema.decode(record) == PLAIN


def field(number, payload):
    length = len(payload)
    assert length < 2**14
    return bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7]) + payload


def spelled(labels=b"", confidences=b"", sources=b"", negatives=b""):
    """A record whose features are the given bytes."""
    entries = {
        "image": field(1, field(1, b"i")),
        "image_id": field(1, field(1, b"a")),
        "labels": labels,
        "confidences": confidences,
        "label_sources": sources,
        "negatives": negatives,
        "negative_sources": b"",
    }
    return field(
        1, b"".join(field(1, field(1, key.encode()) + field(2, e)) for key, e in entries.items())
    )


def test_values_that_are_not_packed_are_read():
    labels = field(3, b"\x08\x05\x08\xac\x02")  # 5 and 300, each behind its own tag
    confidences = field(2, b"\x0d" + struct.pack("<f", 0.5) + b"\x0d" + struct.pack("<f", 1))
    record = spelled(labels, confidences, field(1, field(1, b"x") + field(1, b"y")))
    assert schema.decode(record) == Example("a", b"i", (5, 300), (0.5, 1.0), ("x", "y"))


@pytest.mark.parametrize(
    ("lists", "detail"),
    [
        ({"labels": field(3, field(1, b"\xff" * 10 + b"\x01"))}, "number"),
        ({"labels": field(3, field(1, b"\xff" * 100))}, "number"),
        ({"labels": field(3, field(1, b"\x85"))}, "number"),
        ({"labels": field(3, field(1, b"\xff" * 9 + b"\x01"))}, "from 0, ascending"),  # -1
        ({"negatives": field(3, field(1, b"\x05\x05"))}, "ascending, each once"),
        ({"confidences": field(2, field(1, b"\0\0\0"))}, "float"),
        ({"labels": field(2, field(1, b"\0\0\0\0"))}, "labels is a list of int64"),
        ({"labels": field(3, field(1, b"\x05"))}, "1 labels, 0 confidences"),
        ({"sources": field(1, field(1, b"\xff"))}, "not UTF-8"),
        ({"negatives": field(3, b"\x09" + bytes(8))}, "wire type 1"),
    ],
)
def test_a_malformed_list_is_an_error_that_says_what_is_wrong(lists, detail):
    with pytest.raises(SchemaError, match=detail):
        schema.decode(spelled(**lists))


@pytest.mark.parametrize(
    ("replaced", "detail"),
    [
        ({"labels": (5, 2)}, r"labels are class ids .* Received: \(5, 2\) .*'a'"),
        ({"labels": (2, 2)}, "ascending"),
        ({"labels": (-1, 2)}, "from 0"),
        ({"labels": (2, 2**63)}, "class ids"),
        ({"negatives": (9, 8), "negative_sources": ("", "")}, "negatives are class ids"),
        ({"labels": (1, 2, 3)}, "3 labels, 2 confidences, 2 sources"),
        ({"label_sources": ("x",)}, "1 sources"),
        ({"negatives": (7,)}, "1 negatives, 0 sources"),
        ({"confidences": (0.5, float("nan"))}, "between 0 and 1"),
        ({"confidences": (0.5, 1.5)}, "between 0 and 1"),
        ({"negatives": (2,), "negative_sources": ("",)}, r"Received: \[2\] in both"),
    ],
)
def test_values_that_break_the_contract_are_an_error(replaced, detail):
    example = Example("a", b"i", (1, 2), (1.0, 0.5), ("x", "y"))
    with pytest.raises(SchemaError, match=detail):
        schema.encode(example._replace(**replaced))


def test_a_record_of_other_features_is_an_error_that_names_them():
    with pytest.raises(
        SchemaError, match=r"holds the features .*Received: image, image_id, labels"
    ):
        schema.decode(
            message(
                PLAIN,
                leave_out=("confidences", "label_sources", "negatives", "negative_sources"),
            ).SerializeToString()
        )


@pytest.mark.parametrize("record", [b"", b"\xff\xff\xff", b"not an example", b"\x0a\x05ab"])
def test_bytes_that_are_no_example_are_an_error(record):
    with pytest.raises(SchemaError):
        schema.decode(record)


def test_every_truncation_of_a_record_is_an_error():
    record = schema.encode(RICH._replace(image=b"image"))
    for length in range(len(record)):
        with pytest.raises(SchemaError):
            schema.decode(record[:length])


def mutated(record, rng):
    data = bytearray(record)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data))
        match rng.randrange(4):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.choice((0, 0x7F, 0x80, 0xFF))
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 12))
            case _:
                del data[at : at + rng.randint(1, 12)]
                data = data or bytearray(b"\0")
    return bytes(data)


def test_a_mutated_record_gives_an_example_or_a_schema_error():
    rng = random.Random(0)
    records = [schema.encode(example._replace(image=b"image")) for example in (PLAIN, RICH)]
    outcomes = set()
    for _ in range(5_000):
        record = mutated(rng.choice(records), rng)
        try:
            example = schema.decode(record)
        except SchemaError:
            outcomes.add("refused")
        else:
            outcomes.add("read")
            assert schema.decode(schema.encode(example)) == example
    assert outcomes == {"refused", "read"}


def test_the_bytes_of_this_version_do_not_change():
    assert schema.FORMAT_VERSION == 2  # another version has other bytes: a new number
    assert zlib.crc32(schema.encode(RICH)) == 3391394474


def test_tfds_reads_every_feature_with_the_names_of_the_classes(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    jpeg = io.BytesIO()
    Image.new("RGB", (5, 4), (255, 0, 0)).save(jpeg, "JPEG")
    example = RICH._replace(image=jpeg.getvalue(), labels=(0, 1, 3, 4, 5), negatives=(2, 6))
    bare = PLAIN._replace(image=jpeg.getvalue())
    shard = b"".join(tfrecord.frame(schema.encode(record)) for record in (example, bare))
    (tmp_path / metadata.shard_file("train", 0, 1)).write_bytes(shard)
    classes = tuple(f"/m/{number}" for number in range(7))
    marker = {"split": "train", "shard_lengths": [2], "num_bytes": len(shard)}
    for name, text in metadata.tfds_files(Vocabulary(classes, classes), [marker]).items():
        (tmp_path / name).write_text(text)

    builder = tfds.builder_from_directory(tmp_path)
    assert tuple(builder.info.features["labels"].names) == classes
    assert tuple(builder.info.features["negatives"].names) == classes
    found, found_bare = tfds.as_numpy(builder.as_dataset(split="train"))
    assert found["image"].shape == (4, 5, 3)
    assert found["image_id"].decode() == example.image_id
    for name in ("labels", "confidences", "negatives"):
        np.testing.assert_array_equal(found[name], getattr(example, name))
        assert len(found_bare[name]) == 0
    for name in ("label_sources", "negative_sources"):
        assert tuple(text.decode() for text in found[name]) == getattr(example, name)
        assert len(found_bare[name]) == 0


def test_the_tfds_metadata_is_written_without_tensorflow():
    code = (
        "import sys; from pipeline import labels, metadata; "
        "metadata.tfds_files(labels.Vocabulary(('a',), ('a',)), []); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
