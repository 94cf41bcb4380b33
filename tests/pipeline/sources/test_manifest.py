import gzip

import pytest

from pipeline.records import BadRow, ImageRef
from pipeline.sources import manifest

PLAIN = manifest.Format(None, None, None, "|")


def read(tmp_path, data, name="rows.csv", format=PLAIN):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return [
        row._replace(source=row.source.split("/")[-1]) for row in manifest.read(str(path), format)
    ]


def test_csv_rows_carry_labels_and_their_file_and_line(tmp_path):
    rows = read(tmp_path, "image_path,labels\na.jpg,cat|animal\n\nb.jpg,\n")
    assert rows == [
        ImageRef("a.jpg", "a.jpg", ("cat", "animal"), "rows.csv:2"),
        ImageRef("b.jpg", "b.jpg", (), "rows.csv:4"),
    ]


def test_quotes_commas_byte_order_mark_and_crlf_are_read(tmp_path):
    rows = read(tmp_path, '\ufeffimage,labels\r\n"a, b.jpg","say ""hi""|cat"\r\n')
    assert rows == [ImageRef("a, b.jpg", "a, b.jpg", ('say "hi"', "cat"), "rows.csv:2")]


def test_columns_are_found_by_usual_names_and_others_ignored(tmp_path):
    rows = read(tmp_path, "Split,Labels,ImageID,URI\ntrain,cat,7,gs://b/x.jpg\n")
    assert rows == [ImageRef("7", "gs://b/x.jpg", ("cat",), "rows.csv:2")]


def test_columns_and_delimiter_can_be_named(tmp_path):
    format = manifest.Format("where", "what", "key", ";")
    rows = read(tmp_path, "key,what,where\nk1,cat; dog;;cat,x.jpg\n", format=format)
    assert rows == [ImageRef("k1", "x.jpg", ("cat", "dog"), "rows.csv:2")]


def test_a_broken_row_costs_only_itself(tmp_path):
    text = 'image,labels\na.jpg,"cat\nb.jpg,dog\nc.jpg,x,y\n,cat\nd.jpg,cat\n'
    rows = read(tmp_path, text)
    assert [type(row) for row in rows] == [BadRow, ImageRef, BadRow, BadRow, ImageRef]
    assert [row.source for row in rows] == [f"rows.csv:{line}" for line in (2, 3, 4, 5, 6)]
    assert "3 cells below a header of 2" in rows[2].detail
    assert rows[3].detail == "the image is empty"


def test_bytes_that_are_not_utf8_make_a_bad_row(tmp_path):
    rows = read(tmp_path, b"image,labels\na\xff.jpg,cat\nb.jpg,cat\n")
    assert isinstance(rows[0], BadRow)
    assert rows[0] == BadRow("a\\udcff.jpg,cat", "not UTF-8", "rows.csv:2")  # which UTF-8 can hold
    assert rows[1].uri == "b.jpg"


def test_json_lines_give_labels_as_a_list_or_as_text(tmp_path):
    text = (
        '{"path": "a.jpg", "labels": ["x|y", "cat"]}\n'
        '{"path": "b.jpg", "labels": "dog|cat"}\n'
        '{"path": "c.jpg", "labels": null}\n'
        '{"path": "d.jpg", "labels": [3]}\n'
    )
    rows = read(tmp_path, text, name="rows.jsonl")
    assert [row.labels for row in rows] == [("x|y", "cat"), ("dog", "cat"), (), ("3",)]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"path": "a.jpg"}', '{"path": 1.5, "labels": []}',
     '{"path": "a.jpg", "labels": {"cat": 1}}', '{"path": "a.jpg", "labels": [null]}',
     '{"path": "\\ud800.jpg", "labels": []}', "[" * 100_000],
)  # fmt: skip
def test_a_json_line_of_the_wrong_kind_is_a_bad_row(tmp_path, line):
    text = '{"path": "a.jpg", "labels": ["cat"]}\n' + line + "\n"
    rows = read(tmp_path, text, name="rows.jsonl")
    assert [type(row) for row in rows] == [ImageRef, BadRow]


@pytest.mark.parametrize("labels", [["cat", "dog"], ["a|b", "c"], ['say "hi"', "x|y"], []])
def test_formatted_labels_read_back_the_same(labels):
    cell = manifest.format_labels(labels, "|")
    assert manifest._labels(cell, "|") == tuple(labels)


@pytest.mark.parametrize(
    ("name", "text", "format", "message"),
    [
        ("rows.parquet", "x", PLAIN, "ends with one of .csv, .jsonl"),
        ("rows.csv", "a,b\n", PLAIN, "no column for the image: name it with --image_column"),
        ("rows.csv", "image,labels,labels\n", PLAIN, "names a column twice: labels"),
        ("rows.csv", "image,labels\n", PLAIN._replace(labels_column="tag"), "no column 'tag'"),
        ("rows.jsonl", "image,labels\n", PLAIN, "the first line is no JSON"),
        ("rows.jsonl", "[" * 100_000 + "\n", PLAIN, "the first line is no JSON"),
        ("rows.csv", "image,Labels,labels\n", PLAIN, "columns Labels and labels are alike"),
        ("rows.csv", "image,labels\ra.jpg,cat\r", PLAIN, "lines end with CR alone"),
    ],
)
def test_a_file_without_the_columns_is_an_error(tmp_path, name, text, format, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(manifest.ManifestError, match=message):
        manifest.find_columns(str(path), format)


@pytest.mark.parametrize("encoding", ["gzip", "utf-16", "utf-16-le"])
def test_what_is_not_utf8_text_is_said_so_instead_of_shown(tmp_path, encoding):
    text = "image,labels\na.jpg,cat\n"
    path = tmp_path / "rows.csv"
    path.write_bytes(gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding))
    with pytest.raises(manifest.ManifestError, match="the first line is not UTF-8 text"):
        manifest.find_columns(str(path), PLAIN)


def test_columns_that_differ_in_case_can_be_named(tmp_path):
    format = PLAIN._replace(labels_column="Labels")
    rows = read(tmp_path, "image,Labels,labels\na.jpg,cat,dog\n", format=format)
    assert rows == [ImageRef("a.jpg", "a.jpg", ("cat",), "rows.csv:2")]


def test_columns_without_a_name_are_ignored(tmp_path):
    rows = read(tmp_path, "image,labels,,\na.jpg,cat,x,y\n")
    assert rows == [ImageRef("a.jpg", "a.jpg", ("cat",), "rows.csv:2")]


def test_a_space_after_a_comma_is_no_part_of_a_cell(tmp_path):
    rows = read(tmp_path, 'image, labels\na.jpg, "cat|say, dog"\n')
    assert rows == [ImageRef("a.jpg", "a.jpg", ("cat", "say, dog"), "rows.csv:2")]


def test_a_file_without_a_line_has_no_rows(tmp_path):
    assert read(tmp_path, "") == []


def test_a_json_line_has_its_id_or_its_path_whatever_the_first_line_has(tmp_path):
    text = (
        '{"path": "a.jpg", "labels": []}\n'
        '{"path": "b.jpg", "labels": [], "image_id": "7"}\n'
        '{"path": "c.jpg", "labels": []}\n'
    )
    rows = read(tmp_path, text, name="rows.jsonl")
    assert [row.image_id for row in rows] == ["a.jpg", "7", "c.jpg"]
