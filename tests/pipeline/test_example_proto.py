import random

import pytest

from pipeline import example_proto
from pipeline.example_proto import ExampleError


def serialized(**features):
    tf = pytest.importorskip("tensorflow")
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_every_value_that_tensorflow_writes_is_read_back():
    tf = pytest.importorskip("tensorflow")
    numbers = [0, 1, 127, 128, 300, 2**31, 2**63 - 1, -1, -(2**63)]
    record = serialized(
        numbers=tf.train.Feature(int64_list=tf.train.Int64List(value=numbers)),
        floats=tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, -1.25, 3e38])),
        texts=tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"", b"x" * 300, b"y"])),
        none=tf.train.Feature(),
        empty=tf.train.Feature(int64_list=tf.train.Int64List()),
    )
    found = example_proto.features(record)
    assert {name: feature.kind for name, feature in found.items()} == {
        "numbers": "int64", "floats": "float", "texts": "bytes", "none": "", "empty": "int64"
    }  # fmt: skip
    assert found["numbers"].int64s() == numbers
    assert found["floats"].floats() == pytest.approx([0.5, -1.25, 3e38])
    assert found["texts"].texts() == [b"", b"x" * 300, b"y"]
    assert [record[start:end] for start, end in found["texts"].spans()] == found["texts"].texts()
    assert found["empty"].int64s() == found["none"].int64s() == []
    assert found["texts"].num_bytes == (2 + 0) + (3 + 300) + (2 + 1)


def field(number, payload):
    return bytes([number << 3 | 2, len(payload)]) + payload


def record(*entries):
    return field(1, b"".join(field(1, entry) for entry in entries))


def test_numbers_one_by_one_are_read_as_packed_ones_are():
    ints = field(3, b"\x08\x05" + field(1, b"\x06\x07"))
    floats = field(2, b"\x0d\0\0\0\x3f")
    found = example_proto.features(
        record(field(1, b"i") + field(2, ints), field(1, b"f") + field(2, floats))
    )
    assert found["i"].int64s() == [5, 6, 7]
    assert found["f"].floats() == [0.5]


def test_the_last_feature_of_a_name_counts_and_unknown_fields_are_passed_over():
    first = field(1, b"a") + field(2, field(3, b"\x08\x01"))
    unknown = b"\x78\x01" + b"\x7d1234" + b"\x7912345678" + field(14, b"x")
    second = field(2, field(3, b"\x08\x02" + unknown)) + unknown + field(1, b"a")
    assert example_proto.features(record(first, second) + unknown)["a"].int64s() == [2]


@pytest.mark.parametrize(
    "damaged",
    [
        b"\x0a\x05ab",  # longer than the record
        b"\x0b\x00",  # a group
        b"\x02\x00",  # field 0
        b"\x0a" + b"\xff" * 11,  # a length that does not end
        b"\x0a",
        record(field(1, b"\xff") + field(2, b"")),  # a name that is not UTF-8
    ],
)
def test_what_is_no_example_is_refused(damaged):
    with pytest.raises(ExampleError):
        example_proto.features(damaged)


@pytest.mark.parametrize(
    ("kind", "values"),
    [(1, b"\x08\x01"), (2, field(1, b"123")), (3, b"\x0d\0\0\0\0"), (3, b"\x08")],
)
def test_values_of_another_kind_are_refused(kind, values):
    entry = field(1, b"a") + field(2, field(kind, values))
    feature = example_proto.features(record(entry))["a"]
    with pytest.raises(ExampleError):
        {1: feature.texts, 2: feature.floats, 3: feature.int64s}[kind]()


def test_damage_is_an_error_of_its_own_kind_or_goes_unseen():
    tf = pytest.importorskip("tensorflow")
    rng = random.Random(1)
    whole = serialized(
        a=tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 500, -1])),
        b=tf.train.Feature(float_list=tf.train.FloatList(value=[0.5])),
        c=tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x", b"y" * 200])),
    )
    num_errors = 0
    for _ in range(5000):
        mutated = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        try:
            for feature in example_proto.features(bytes(mutated[: rng.randrange(1, 999)])).values():
                {"int64": feature.int64s, "float": feature.floats}.get(
                    feature.kind, feature.texts
                )()
        except ExampleError:
            num_errors += 1
    assert 0 < num_errors < 5000
