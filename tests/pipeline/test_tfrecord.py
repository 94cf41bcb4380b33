import io

import pytest

from pipeline import tfrecord

RECORDS = [b"", b"a", b"x" * 100_000]


def test_tensorflow_reads_what_frame_writes(tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "records"
    path.write_bytes(b"".join(map(tfrecord.frame, RECORDS)))
    assert [record.numpy() for record in tf.data.TFRecordDataset(str(path))] == RECORDS


def test_records_read_back_the_same():
    stream = io.BytesIO(b"".join(map(tfrecord.frame, RECORDS)))
    assert list(tfrecord.read(stream)) == RECORDS


def test_any_flipped_byte_and_any_cut_is_noticed():
    data = tfrecord.frame(b"hello")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(tfrecord.TFRecordError):
            list(tfrecord.read(io.BytesIO(bytes(damaged))))
    for length in range(1, len(data)):
        with pytest.raises(tfrecord.TFRecordError):
            list(tfrecord.read(io.BytesIO(data[:length])))


def test_a_scan_says_where_records_lie_and_goes_on_behind_a_damaged_one():
    data = bytearray(b"".join(map(tfrecord.frame, [b"one", b"two", b"three"])))
    data[19 + 12] ^= 1
    found = list(tfrecord.scan(io.BytesIO(data)))
    assert found == [
        tfrecord.Record(b"one", 12),
        tfrecord.Damage("the checksum of a record is wrong", 19 + 12),
        tfrecord.Record(b"three", 2 * 19 + 12),
    ]
    assert bytes(data[found[2].offset :][:5]) == b"three"
