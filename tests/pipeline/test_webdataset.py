import gzip
import io
import json
import pickle
import tarfile

import pytest

from pipeline import rows
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources.source import SourceError, SourceOptions
from pipeline.sources.webdataset import WebDataset

# The fields that img2dataset writes beside an image.
IMG2DATASET = {
    "url": "https://example.org/1.jpg", "key": "000000000", "status": "success",
    "error_message": None, "width": 256, "height": 192, "original_width": 1024,
    "original_height": 768, "exif": "{}", "sha256": "0" * 64,
}  # fmt: skip


def write_shard(path, members):
    """A tar of (name, bytes, text or object) in their order."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            if not isinstance(content, bytes):
                content = (content if isinstance(content, str) else json.dumps(content)).encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def source_of(images, **options):
    return WebDataset(SourceOptions("webdataset", images=str(images), **options))


def read(tmp_path, images, **options):
    """Every row, read as a worker reads it."""
    source = source_of(images, **options)
    inventory = source.inventory()
    source = pickle.loads(pickle.dumps(source))  # noqa: S301
    return [
        rows.decode(line.decode())
        for part in inventory.parts
        for batch in source.batches(part, str(tmp_path / "unpacked"))
        for line in batch.lines.to_pylist()
    ]


def read_shard(tmp_path, members, **options):
    return read(tmp_path, write_shard(tmp_path / "00000.tar", members), **options)


def bytes_at(uri):
    path, _, span = uri.rpartition("#")
    offset, length = map(int, span.split("+"))
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def test_a_sample_is_an_image_with_its_json_and_the_uri_points_into_the_shard(tmp_path):
    found = read_shard(
        tmp_path,
        [
            ("000000000.jpg", b"image 0"),
            ("000000000.json", IMG2DATASET | {"labels": ["cat", "animal"]}),
            ("000000001.jpg", b"image 1!"),
            ("000000001.json", IMG2DATASET | {"labels": "dog|animal"}),
        ],
    )
    assert [row._replace(uri=bytes_at(row.uri)) for row in found] == [
        ImageRow("000000000", b"image 0", (Annotation("cat"), Annotation("animal")), "0:1"),
        ImageRow("000000001", b"image 1!", (Annotation("dog"), Annotation("animal")), "0:2"),
    ]


def test_columns_are_fields_that_flags_name(tmp_path):
    fields = {
        "uid": 17, "tagged": ["cat", "dog"], "sure": [0.5, 0], "who": "verification",
        "md5": "0123456789abcdef0123456789ABCDEF", "turn": 90, "part": "eval",
    }  # fmt: skip
    (row,) = read_shard(
        tmp_path,
        [("1.jpg", b""), ("1.json", fields)],
        id_column="uid",
        labels_column="tagged",
        confidence_column="sure",
        label_source_column="who",
        checksum_column="md5",
        rotation_column="turn",
        split_column="part",
    )
    assert row._replace(uri="") == ImageRow(
        "17",
        "",
        (Annotation("cat", 0.5, "verification"), Annotation("dog", 0.0, "verification")),
        "0:1",
        "md5:0123456789abcdef0123456789abcdef",
        90,
        "eval",
    )


def test_fields_that_no_flag_names_are_not_taken_for_ids_or_checksums(tmp_path):
    fields = IMG2DATASET | {"image_id": "9", "confidence": 0.1, "rotation": 90}
    (row,) = read_shard(tmp_path, [("1.jpg", b""), ("1.json", fields)])
    assert row._replace(uri="") == ImageRow("1", "", (), "0:1")


@pytest.mark.parametrize(
    ("members", "labels"),
    [
        ([("1.cls", "7\n")], ["7"]),
        ([("1.cls", "tabby cat")], ["tabby cat"]),
        ([("1.txt", "cat|animal\r\npet\n")], ["cat", "animal", "pet"]),
        ([("1.txt", "a caption"), ("1.cls", "7")], ["7"]),
        ([("1.cls", "7"), ("1.json", {"label": "cat"})], ["cat"]),
        ([("1.cls", "7"), ("1.json", IMG2DATASET)], ["7"]),
        ([("1.json", {"label": 3})], ["3"]),
        ([], []),
        ([("1.npy", b"\0\xff")], []),
    ],
)
def test_labels_are_in_the_json_else_the_class_else_the_text(tmp_path, members, labels):
    for order in (1, -1):
        (row,) = read_shard(tmp_path, [("1.jpg", b""), *members][::order])
        assert [annotation.label for annotation in row.annotations] == labels


def test_where_a_flag_names_the_labels_nothing_else_is_taken_for_them(tmp_path):
    members = [("1.jpg", b""), ("1.txt", "a caption"), ("1.json", {"labels": ["x"]})]
    other = [("2.jpg", b""), ("2.json", {"tagged": ["y"]})]
    found = read_shard(tmp_path, [*members, *other], labels_column="tagged")
    assert [row.annotations for row in found] == [(), (Annotation("y"),)]


def test_a_key_ends_at_the_first_dot_behind_the_last_slash(tmp_path):
    found = read_shard(
        tmp_path,
        [
            ("a.b/1.v2.jpg", b"not an image's extension"),
            ("a.b/1.JPG", b"upper"),
            ("a.b/1.cls", "one"),
            ("c/1.jpeg", b"other folder"),
            ("c/.hidden.jpg", b""),
            ("./2.png", b"png"),
        ],
    )
    assert [(row.image_id, bytes_at(row.uri)) for row in found] == [
        ("a.b/1", b"upper"),
        ("c/1", b"other folder"),
        ("2", b"png"),
    ]


def test_of_several_images_a_flag_says_which(tmp_path):
    members = [("1.input.png", b"in"), ("1.jpg", b"jpg"), ("1.png", b"png")]
    (bad,) = read_shard(tmp_path, members)
    assert bad.detail == (
        "several images: say which with --image_column. Received: .input.png, .jpg, .png"
    )
    (row,) = read_shard(tmp_path, members, image_column="input.png")
    assert bytes_at(row.uri) == b"in"


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ([("1.json", {"labels": ["cat"]}), ("1.cls", "7")], "no image. Received: .json, .cls"),
        ([("1.jpg", b""), ("1.json", "{")], "no JSON: Expecting property name"),
        ([("1.jpg", b""), ("1.json", "[" * 100_000)], "maximum recursion depth exceeded"),
        ([("1.jpg", b""), ("1.json", "[1]")], "the JSON is no object: [1]"),
        ([("1.jpg", b""), ("1.json", b"\xff{}")], "not UTF-8"),
        ([("1.jpg", b""), ("1.json", '{"labels": ["\\udcff"]}')], "not UTF-8"),
        ([("1.jpg", b""), ("1.json", " " * (1 << 20) + "{}")], "1.json has 1048578 bytes, of at"),
        ([("1.jpg", b""), ("1.cls", "")], "the label is empty"),
        ([("1.jpg", b""), ("1.cls", "a\x1fb")], "the label holds a control character"),
        ([("\x01.jpg", b"")], "the image id holds a control character"),
    ],
)
def test_a_sample_that_cannot_be_read_is_one_bad_row(tmp_path, members, detail):
    found = read_shard(tmp_path, [("0.jpg", b""), *members, ("2.jpg", b"")])
    assert [row.place for row in found] == ["0:1", "0:2", "0:3"]
    assert isinstance(found[1], BadRow)
    assert found[1].detail.startswith(detail)
    assert [found[0].image_id, found[2].image_id] == ["0", "2"]


def test_an_id_that_the_json_has_not_is_a_bad_row(tmp_path):
    members = [("1.jpg", b""), ("1.json", {}), ("2.jpg", b""), ("2.json", {"uid": 7})]
    bad, row = read_shard(tmp_path, members, id_column="uid")
    assert (bad.text, bad.detail) == ("1", "no image id")
    assert row.image_id == "7"


FLAGS = ("labels", "id", "confidence", "label_source", "checksum", "rotation", "split")


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_field_that_a_flag_names_and_no_sample_has_is_an_error(tmp_path, flag, suffix):
    members = [("1.jpg", b""), ("1.json", {"labels": ["cat"], "sure": 0}), ("2.jpg", b"")]
    path = write_shard(tmp_path / "0.tar", members)
    (tmp_path / "1.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(SourceError) as raised:
        source_of(f"{tmp_path}/[01]{suffix}", **{f"{flag}_column": "Sure"}).inventory()
    assert str(raised.value) == (
        f"--images={tmp_path}/[01]{suffix}: of 2 samples looked at, none has a field 'Sure' "
        f"(--{flag}_column). Fields found: labels, sure"
    )


def test_an_image_that_a_flag_names_and_no_sample_has_is_an_error(tmp_path):
    path = write_shard(tmp_path / "0.tar", [("1.jpg", b""), ("1.cls", "7"), ("2.jpg", b"")])
    with pytest.raises(SourceError, match=r"none has a file \.png .* Files found: \.cls, \.jpg"):
        source_of(path, image_column="png").inventory()


def test_what_only_samples_of_a_later_shard_have_is_found(tmp_path):
    write_shard(tmp_path / "0.tar", [("1.jpg", b""), ("1.json", "{")])
    (tmp_path / "1.tar").write_bytes(b"\1" * 700)
    write_shard(tmp_path / "2.tar", [("2.jpg", b""), ("2.json", {"uid": 7})])
    found = read(tmp_path, f"{tmp_path}/*.tar", id_column="uid")
    assert [getattr(row, "image_id", None) for row in found] == [None, None, "7"]


@pytest.mark.parametrize("labels", [("1.json", {"labels": ["cat"]}), ("1.cls", "cat")])
def test_labels_without_the_confidence_that_a_flag_names_are_a_bad_row(tmp_path, labels):
    rest = [("2.jpg", b""), ("2.cls", "dog"), ("2.json", {"sure": 0}), ("3.jpg", b"")]
    members = [("1.jpg", b""), labels, *rest]
    bad, negative, unlabelled = read_shard(tmp_path, members, confidence_column="sure")
    assert (bad.text, bad.detail) == ("1", "labels, but no field 'sure' (--confidence_column)")
    assert negative.annotations == (Annotation("dog", 0.0),)
    assert unlabelled.annotations == ()


def write_samples(path, count):
    """Samples of two members of 1,024 bytes each, and two blocks of zeros: 2,048 bytes a sample."""
    members = [(f"{i}{end}", b"x" * 500) for i in range(count) for end in (".jpg", ".cls")]
    write_shard(path, members)
    path.write_bytes(path.read_bytes()[: count * 2048 + 1024])
    return path


def lost(found):
    """(number of rows that are read, places of those that are lost, what is said of these)."""
    bad_rows = [row for row in found if isinstance(row, BadRow)]
    assert found[len(found) - len(bad_rows) :] == bad_rows
    (detail,) = {row.detail for row in bad_rows}
    return len(found) - len(bad_rows), [row.place for row in bad_rows], detail


def test_of_a_single_shard_that_is_cut_as_much_again_as_there_is_counts_as_lost(tmp_path):
    path = write_samples(tmp_path / "0.tar", 2000)
    path.write_bytes(path.read_bytes()[: 200 * 2048 + 600])  # in the bytes of 200.jpg
    num_read, places, detail = lost(read(tmp_path, path))
    assert num_read == 199  # 199.cls may not have been the last of its sample
    assert places == [f"0:{number}" for number in range(200, 400)]
    assert detail == (
        "cut off at byte 410200, within '200.jpg' of 500 bytes; lost behind sample 199, about: 200"
    )


@pytest.mark.parametrize(("num_bytes", "num_whole"), [(10 * 2048 + 100, 9), (0, 0), (700, 0)])
def test_a_shard_that_is_cut_is_taken_to_have_been_as_long_as_the_others(
    tmp_path, num_bytes, num_whole
):
    for name in "ab":
        write_samples(tmp_path / f"{name}.tar", 100)
    path = write_samples(tmp_path / "c.tar", 100)
    path.write_bytes(path.read_bytes()[:num_bytes])
    found = read(tmp_path, f"{tmp_path}/*.tar")
    num_read, places, _ = lost(found)
    assert num_read == 200 + num_whole
    assert abs(len(places) - (100 - num_whole)) <= 1
    assert len({row.text for row in found[num_read:]}) == len(places)  # which parts them by hash


def test_shards_that_are_all_cut_alike_count_as_halved(tmp_path):
    for name in "abcd":
        path = write_samples(tmp_path / f"{name}.tar", 100)
        path.write_bytes(path.read_bytes()[: 50 * 2048 + 700])
    kinds = [type(row) for row in read(tmp_path, f"{tmp_path}/*.tar")]
    assert (kinds.count(ImageRow), kinds.count(BadRow)) == (4 * 49, 4 * 50)


def test_behind_a_damaged_header_the_rest_of_the_shard_is_lost(tmp_path):
    path = write_samples(tmp_path / "0.tar", 100)
    data = bytearray(path.read_bytes())
    data[60 * 2048] ^= 1
    path.write_bytes(data)
    num_read, places, detail = lost(read(tmp_path, path))
    assert (num_read, len(places)) == (59, 41)  # the 60th may be a part of what is damaged
    assert detail == (
        f"damaged at byte {60 * 2048} of {len(data)}: no header of a member; "
        "lost behind sample 59, about: 41"
    )


def test_a_shard_that_is_zeros_from_somewhere_on_was_never_filled(tmp_path):
    path = write_samples(tmp_path / "0.tar", 2000)
    data = path.read_bytes()
    path.write_bytes(data[: 500 * 2048].ljust(len(data), b"\0"))
    num_read, places, detail = lost(read(tmp_path, path))
    assert (num_read, len(places)) == (499, 1501)
    assert detail.startswith(f"{1500 * 2048 + 1024} bytes of zeros from byte {500 * 2048} on")


def test_a_shard_that_was_not_closed_may_lack_nothing(tmp_path):
    path = write_samples(tmp_path / "0.tar", 10)
    path.write_bytes(path.read_bytes()[: 10 * 2048])
    num_read, places, detail = lost(read(tmp_path, path))
    assert (num_read, places) == (9, ["0:10"])
    assert detail.startswith("cut off at byte 20480: no end of the archive")


def test_a_compressed_shard_is_unpacked_once_and_referred_to(tmp_path):
    plain = write_shard(tmp_path / "0.tar", [("1.jpg", b"image"), ("1.cls", "7")])
    (tmp_path / "1.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    for _ in range(2):
        (row,) = read(tmp_path, tmp_path / "1.tar.gz")
        assert bytes_at(row.uri) == b"image"
        assert row.annotations == (Annotation("7"),)
    assert len(list((tmp_path / "unpacked").iterdir())) == 1


def test_a_compressed_shard_may_have_brackets_in_its_name(tmp_path):
    plain = write_shard(tmp_path / "0.tar", [("1.jpg", b"image"), ("1.cls", "7")])
    (tmp_path / "shard [1].tar.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (row,) = read(tmp_path, tmp_path / "shard*.tar.gz")
    assert bytes_at(row.uri) == b"image"


def test_shards_are_named_by_globs_ranges_and_commas(tmp_path):
    for name in ("a-00.tar", "a-01.tar", "a-02.tar", "b.tar", "c.tar"):
        write_shard(tmp_path / name, [(f"{name[:-4]}.jpg", b"")])
    for images, expected in [
        (f"{tmp_path}/a-{{00..02}}.tar", ["a-00", "a-01", "a-02"]),
        (f"{tmp_path}/c.tar, {tmp_path}/a-{{01..01}}.tar", ["a-01", "c"]),
        (f"{tmp_path}/?.tar,{tmp_path}/b.tar", ["b", "c"]),
        (f"file://{tmp_path}/b.tar", ["b"]),
    ]:
        assert [row.image_id for row in read(tmp_path, images)] == expected


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("a-{00..03}.tar", r"--images: no file matches .*/a-00\.tar"),
        ("x.zip", r"x\.zip is no tar archive. Expected: \.tar, \.tar\.gz"),
        ("", r"is a folder: name the files"),
    ],
)
def test_what_is_no_shard_is_an_error(tmp_path, images, message):
    (tmp_path / "x.zip").write_bytes(b"PK")
    with pytest.raises(SourceError, match=message):
        source_of(tmp_path / images).inventory()


def test_samples_are_estimated_from_the_first_ones(tmp_path):
    for shard in range(3):
        write_shard(
            tmp_path / f"{shard}.tar",
            [(f"{shard}{i:03}{end}", b"x" * 900) for i in range(300) for end in (".jpg", ".cls")],
        )
    inventory = source_of(tmp_path / "*.tar").inventory()
    assert inventory.num_images == pytest.approx(900, rel=0.05)
    assert [part.file for part in inventory.parts] == [0, 1, 2]


def test_the_digest_is_of_names_sizes_and_columns(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_shard(tmp_path / folder / "0.tar", [("1.jpg", b"image")])
    digest = source_of(tmp_path / "one" / "0.tar").inventory().digest
    assert source_of(tmp_path / "two" / "*.tar").inventory().digest == digest
    assert source_of(tmp_path / "one" / "*", label_delimiter=";").inventory().digest != digest
    write_shard(tmp_path / "two" / "0.tar", [(f"{i}.jpg", b"i" * 9000) for i in range(2)])
    assert source_of(tmp_path / "two" / "*.tar").inventory().digest != digest
