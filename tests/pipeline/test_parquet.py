import hashlib
import random
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_manifest import read_all, said, source

from pipeline import fetch, rows
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import cells, parquet
from pipeline.sources.columns import find_columns
from pipeline.sources.source import SourceError, SourceOptions

PATHS = pa.array(["a.jpg", " b.jpg", "c.jpg", "d.jpg"])
LABELS = pa.array([["cat", "dog"], [], None, [" bird "]])
EXPECTED = [
    ImageRow("a.jpg", "a.jpg", said("cat", "dog"), "0:1"),
    ImageRow("b.jpg", "b.jpg", (), "0:2"),
    ImageRow("c.jpg", "c.jpg", (), "0:3"),
    ImageRow("d.jpg", "d.jpg", said("bird"), "0:4"),
]


def write(tmp_path, table, name="rows.parquet", **options):
    table = pa.table(table) if isinstance(table, dict) else table
    pq.write_table(table, tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS.cast(pa.large_list(pa.large_string())),
        pa.array(["cat|dog", "", None, "bird"]),
        pa.array(["cat|dog", "", None, "bird"]).dictionary_encode(),
        pa.array(['["cat", "dog"]', "|", " ", '[{"label": "bird"}]']),
        pa.array([[{"label": "cat"}, {"label": "dog"}], [], None, [{"label": "bird"}]]),
    ],
    ids=str,
)
@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_labels_are_lists_or_text_of_any_type(tmp_path, labels, type):
    path = write(tmp_path, {"image_path": PATHS.cast(type), "labels": labels})
    assert read_all(source(path)) == EXPECTED


def test_numbers_are_ids_and_labels(tmp_path):
    table = {"image_id": [7, 8], "uri": ["a.jpg", "b.jpg"], "label": [3, None], "other": [[1], [2]]}
    assert read_all(source(write(tmp_path, table))) == [
        ImageRow("7", "a.jpg", said("3"), "0:1"),
        ImageRow("8", "b.jpg", (), "0:2"),
    ]


@pytest.mark.parametrize("confidence", [pa.float32(), pa.float64(), pa.decimal128(3, 2)], ids=str)
def test_the_optional_columns_are_read(tmp_path, confidence):
    table = {
        "path": ["a.jpg", "b.jpg", "c.jpg"],
        "labels": [["cat", "dog"], ["cat"], ["cat"]],
        "confidence": pa.array([Decimal("0.5"), Decimal("0"), None]).cast(confidence),
        "label_source": [None, "crowd", "machine"],
        "rotation": [90.0, float("nan"), None],
        "md5": ["d41d8cd98f00b204e9800998ecf8427e", "", None],
        "set": ["train", None, "eval"],
    }
    md5 = "md5:d41d8cd98f00b204e9800998ecf8427e"
    half = (Annotation("cat", 0.5), Annotation("dog", 0.5))
    assert read_all(source(write(tmp_path, table), split_column="set")) == [
        ImageRow("a.jpg", "a.jpg", half, "0:1", md5, 90, "train"),
        ImageRow("b.jpg", "b.jpg", (Annotation("cat", 0, "crowd"),), "0:2"),
        ImageRow("c.jpg", "c.jpg", (Annotation("cat", 1, "machine"),), "0:3", "", 0, "eval"),
    ]


def test_lists_of_confidences_are_aligned_with_the_labels(tmp_path):
    table = {
        "path": ["a.jpg", "b.jpg", "c.jpg"],
        "labels": [["cat", "dog"], ["cat"], []],
        "confidences": [[0.25, 0.0], [1.0, 1.0], []],
    }
    first, second, third = read_all(source(write(tmp_path, table)))
    assert first.annotations == (Annotation("cat", 0.25), Annotation("dog", 0.0))
    assert second.detail == "2 confidences for 1 labels: [1.0, 1.0]"
    assert third.annotations == ()


def test_a_row_that_gives_no_image_costs_only_itself(tmp_path):
    table = {
        "image_id": ["1", None, "", "4", "5\x1fx", "6"],
        "path": ["a.jpg", "b.jpg", "c.jpg", None, "e.jpg", "f.jpg"],
        "labels": [["cat"], [], [], [], [], ["c\nat"]],
    }
    found = read_all(source(write(tmp_path, table)))
    assert found[0] == ImageRow("1", "a.jpg", said("cat"), "0:1")
    assert [row.detail for row in found[1:]] == [
        "no image id", "the image id is empty", "no image",
        "the image id holds a control character: '5\\x1fx'",
        "the label holds a control character: 'c\\nat'",
    ]  # fmt: skip
    assert found[1].text == '{"path": "b.jpg", "labels": [], "image_id": null}'


@pytest.mark.parametrize("column", [0, 1])
def test_text_that_is_not_utf8_is_a_bad_row(tmp_path, column):
    broken = pa.array([b"\xff.jpg", b"b.jpg"]).view(pa.string())
    table = [pa.array(["a.jpg", "b.jpg"]), pa.array(["cat", "dog"])]
    table[column] = broken
    found = read_all(source(write(tmp_path, pa.table(table, ["path", "labels"]))))
    assert [type(row) for row in found] == [BadRow, ImageRow]
    assert found[0].detail == "not UTF-8"


def test_rows_are_numbered_through_row_groups_and_parts(tmp_path, monkeypatch):
    paths = [f"{index}.jpg" for index in range(1000)]
    path = write(tmp_path, {"path": paths, "labels": [["cat"]] * 1000}, row_group_size=90)
    monkeypatch.setattr(parquet, "PART_ROWS", 200)
    found = source(path).inventory()
    assert [(part.start, part.end, part.first) for part in found.parts] == [
        (0, 3, 1), (3, 6, 271), (6, 9, 541), (9, 12, 811),
    ]  # fmt: skip
    assert (found.num_rows, found.num_images) == (1000, 1000)
    for number, row in enumerate(read_all(source(path)), start=1):
        assert (row.uri, row.place) == (f"{number - 1}.jpg", f"0:{number}")


def images_of(tmp_path, table, **options):
    """(rows, bytes of each row's image)"""
    path = write(tmp_path, table, row_group_size=2)
    found = read_all(source(path, **options), tmp_path / "unpacked")
    return found, [fetch.Fetcher("").fetch(row.uri) for row in found if isinstance(row, ImageRow)]


def test_embedded_bytes_are_unpacked_once_and_referred_to(tmp_path):
    payloads = [b"one", b"two, longer", b"three"]
    table = {"image": payloads, "labels": ["cat", "dog", ""]}
    found, data = images_of(tmp_path, table)
    assert data == payloads
    assert [row.image_id for row in found] == [f"rows.parquet:{number}" for number in (1, 2, 3)]
    assert [row.annotations for row in found] == [said("cat"), said("dog"), ()]
    files = sorted((tmp_path / "unpacked").iterdir())
    assert len(files) == 2  # one a row group
    before = [file.stat().st_mtime_ns for file in files]
    assert images_of(tmp_path, table) == (found, data)  # as a run that is started again
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_struct_of_bytes_and_path_is_an_image(tmp_path):
    images = [
        {"bytes": b"one", "path": "a.jpg"},
        {"bytes": b"two", "path": None},
        {"bytes": None, "path": str(tmp_path / "c.jpg")},
        None,
    ]
    (tmp_path / "c.jpg").write_bytes(b"three")
    found, data = images_of(tmp_path, {"image": images, "label": [0, 1, 2, 3]})
    assert data == [b"one", b"two", b"three"]
    ids = [row.image_id for row in found[:3]]
    assert ids == ["a.jpg", "rows.parquet:2", str(tmp_path / "c.jpg")]
    assert found[3].detail == "no image"


def test_embedded_images_keep_their_ids(tmp_path):
    table = {"image": [b"one", b"two"], "image_id": ["x", "y"], "labels": ["cat", "dog"]}
    found, data = images_of(tmp_path, table)
    assert [row.image_id for row in found] == ["x", "y"]
    assert data == [b"one", b"two"]


def test_long_form_has_no_embedded_images(tmp_path):
    path = write(tmp_path, {"image": [b"one"], "label": ["cat"]})
    with pytest.raises(SourceError, match="--long_form needs paths, not images, in 'image'"):
        source(path, long_form=True).inventory()


@pytest.mark.parametrize("cut", [0, 3, 100, -1, -9])
def test_a_truncated_file_is_an_error_that_names_it(tmp_path, cut):
    path = write(tmp_path, {"path": PATHS, "labels": LABELS})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(SourceError, match=r"rows\.parquet: no Parquet file, or a damaged one"):
        source(path).inventory()


def test_columns_are_looked_for_as_in_text(tmp_path):
    path = write(tmp_path, {"path": PATHS, "what": LABELS})
    with pytest.raises(
        SourceError, match=r"no column for the labels: .* Columns found: path, what"
    ):
        source(path).inventory()
    assert read_all(source(path, labels_column="what")) == EXPECTED


def test_each_row_of_a_damaged_row_group_is_a_bad_row(tmp_path):
    paths = [hashlib.sha256(bytes([index])).hexdigest() for index in range(100)]
    table = {"path": paths, "labels": ["cat"] * 100}
    path = write(tmp_path, table, row_group_size=50, use_dictionary=False, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200:900] = bytes(700)  # in the first column of the first row group
    path.write_bytes(data)
    found = read_all(source(path))
    assert [type(row) for row in found] == [BadRow] * 50 + [ImageRow] * 50
    assert "row group 0 cannot be read" in found[0].detail
    assert [row.place for row in found] == [f"0:{number}" for number in range(1, 101)]


def test_a_footer_whose_counts_differ_is_an_error(tmp_path):
    paths = [str(number) for number in range(12_345)]
    path = write(tmp_path, {"path": paths, "labels": paths}, row_group_size=10_000)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    count = data.index(b"\xf2\xc0\x01", footer)  # 2 * 12,345, seven bits a byte
    path.write_bytes(data[:count] + b"\xf4" + data[count + 1 :])
    with pytest.raises(SourceError, match="12346 rows, and in its row groups 12345"):
        source(path).inventory()


def test_damaged_bytes_anywhere_end_in_bad_rows_or_a_source_error(tmp_path):
    generator = random.Random(1)
    table = {"path": [f"{index}.jpg" for index in range(200)], "labels": [["a", "b"]] * 200}
    path = write(tmp_path, table, row_group_size=50)
    whole = path.read_bytes()
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(generator.randrange(1, 8)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            found = read_all(source(path))
        except SourceError:
            continue
        assert len(found) <= 1000


ODD_VALUES = {  # of each kind the first is a plain one
    "text": ["a", "a|b", " a ", "", None, "|", "é\xa0", "\x1f", '["a|b"]', "[x", "machine", "0"],
    "list": [["a"], None, [], ["a", "b"], ["a", None], [" "], ["b\n"]],
    "number": [0, None, 1, 90],
    "float": [0.0, None, -0.0, 0.1, 1.0, 2.0, float("nan"), 90.0],
    "floats": [[0.5], None, [], [0.0, 1.0]],
    "flag": [True, None, False],
    "bytes": [b"a", None, b"\xff"],
}
USUAL = ("path", "labels", "image_id", "confidence", "label_source", "md5", "rotation", "set")


@pytest.mark.parametrize("seed", range(40))
def test_rows_read_as_columns_are_what_each_row_gives_alone(tmp_path, seed):
    generator = random.Random(seed)
    names = [*USUAL[:2], *generator.sample(USUAL[2:], generator.randrange(7))]
    table = {}
    for name in names:
        kind = "text" if name == "path" else generator.choice([*ODD_VALUES, "text"])
        values = ODD_VALUES[kind]
        table[name] = pa.array([generator.choice([*values, *values[:1] * 9]) for _ in range(100)])
    table = pa.table(table)
    options = {"split_column": "set" if "set" in names else None}
    columns = find_columns("", names, SourceOptions("manifest", "", **options))
    expected = []
    for number, row in enumerate(table.to_pylist(), start=1):
        try:
            expected.append(cells.image_row(row, columns, "|", f"0:{number}"))
        except ValueError as error:
            expected.append(str(error))
    found = read_all(source(write(tmp_path, table), **options))
    assert [row.detail if isinstance(row, BadRow) else row for row in found] == expected


def test_a_batch_holds_few_rows_where_these_are_large(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 1_000_000)
    payload = np.random.default_rng(1).bytes(10_000)
    path = write(tmp_path, {"image": [payload] * 1000, "labels": [""] * 1000}, use_dictionary=False)
    manifest = source(path)
    (part,) = manifest.inventory().parts
    sizes = [len(batch.keys) for batch in manifest.batches(part, str(tmp_path / "unpacked"))]
    assert sum(sizes) == 1000
    assert max(sizes) <= 100  # of 10 MB in one row group


def test_a_batch_hashes_to_its_ids(tmp_path):
    manifest = source(write(tmp_path, {"path": PATHS, "labels": LABELS}))
    (part,) = manifest.inventory().parts
    (batch,) = manifest.batches(part, "")
    assert batch.keys == [b"a.jpg", b"b.jpg", b"c.jpg", b"d.jpg"]
    assert [line.as_py() for line in batch.lines] == [rows.encode(row) for row in EXPECTED]
