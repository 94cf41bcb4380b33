import csv
import gzip
import io
import json
import random

import pytest

from pipeline import rows
from pipeline.dead_letter import DeadLetter, dead_letter
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import text
from pipeline.sources.manifest import Manifest, format_labels
from pipeline.sources.source import SourceError, SourceOptions


def source(path, **options):
    return Manifest(SourceOptions("manifest", "images", str(path), **options))


def write(tmp_path, data, name="rows.csv"):
    path = tmp_path / name
    data = data if isinstance(data, bytes) else data.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read_all(manifest, unpacked_dir="unpacked"):
    """Every row of every part, as the shard writer will decode it."""
    found = []
    for part in manifest.inventory().parts:
        for batch in manifest.batches(part, str(unpacked_dir)):
            decoded = [rows.decode(line.as_py().decode()) for line in batch.lines]
            keys = [row.text if isinstance(row, BadRow) else row.image_id for row in decoded]
            assert [key.decode() for key in batch.keys] == keys
            splits = ["" if isinstance(row, BadRow) else row.split for row in decoded]
            assert batch.splits == (splits if any(splits) else None)
            found += decoded
    return found


def read(tmp_path, data, name="rows.csv", **options):
    return read_all(source(write(tmp_path, data, name), **options))


def labels(row):
    return [annotation.label for annotation in row.annotations]


def said(*texts):
    return tuple(Annotation(label) for label in texts)


def test_csv_rows_carry_labels_and_their_file_and_line(tmp_path):
    assert read(tmp_path, "image_path,labels\na.jpg,cat|animal\n\nb.jpg,\n") == [
        ImageRow("a.jpg", "a.jpg", said("cat", "animal"), "0:2"),
        ImageRow("b.jpg", "b.jpg", (), "0:4"),
    ]


def test_tabs_part_the_cells_of_a_tsv(tmp_path):
    found = read(tmp_path, 'image\tlabels\na, b.jpg\t"cat|dog"\n', "rows.tsv")
    assert found == [ImageRow("a, b.jpg", "a, b.jpg", said("cat", "dog"), "0:2")]


def test_quotes_commas_byte_order_mark_and_crlf_are_read(tmp_path):
    found = read(tmp_path, '\ufeffimage,labels\r\n"a, b.jpg","say ""hi""|cat"\r\n')
    assert found == [ImageRow("a, b.jpg", "a, b.jpg", said('say "hi"', "cat"), "0:2")]


def test_columns_are_found_by_usual_names_and_others_ignored(tmp_path):
    found = read(tmp_path, "Split,Source,Labels,ImageID,URI\ntrain,web,cat,7,gs://b/x.jpg\n")
    assert found == [ImageRow("7", "gs://b/x.jpg", said("cat"), "0:2")]


def test_columns_and_delimiter_can_be_named(tmp_path):
    found = read(
        tmp_path, "key,what,where\nk1,cat; dog;;bird,x.jpg\n",
        image_column="where", labels_column="what", id_column="key", label_delimiter=";",
    )  # fmt: skip
    assert found == [ImageRow("k1", "x.jpg", said("cat", "dog", "bird"), "0:2")]


def test_a_broken_row_costs_only_itself(tmp_path):
    found = read(tmp_path, 'image,labels\na.jpg,"cat\nb.jpg,dog\nc.jpg,x,y\n,cat\nd.jpg,cat\n')
    assert [type(row) for row in found] == [BadRow, ImageRow, BadRow, BadRow, ImageRow]
    assert [row.place for row in found] == ["0:2", "0:3", "0:4", "0:5", "0:6"]
    assert "no CSV" in found[0].detail
    assert found[2] == BadRow("c.jpg,x,y", "3 cells below a header of 2", "0:4")
    assert found[3].detail == "the image is empty"


def test_a_quote_that_is_closed_lines_later_costs_only_its_row(tmp_path):
    found = read(tmp_path, 'image,labels\na.jpg,"cat\nb.jpg,dog\nc.jpg,"cat"\n')
    assert [type(row) for row in found] == [BadRow, ImageRow, ImageRow]


def test_bytes_that_are_not_utf8_make_a_bad_row(tmp_path):
    found = read(tmp_path, b"image,labels\na\xff.jpg,cat\nb.jpg,cat\n")
    assert found[0] == BadRow("a\\udcff.jpg,cat", "not UTF-8", "0:2")  # which UTF-8 can hold
    assert found[1].uri == "b.jpg"


@pytest.mark.parametrize("row", ["a\x1fb.jpg,cat", "a.jpg,c\x1eat", "a.jpg,cat\x00|dog"])
def test_control_characters_make_a_bad_row(tmp_path, row):
    found = read(tmp_path, f"image,labels\n{row}\nb.jpg,cat\n")
    assert "holds a control character" in found[0].detail
    assert found[1].uri == "b.jpg"


def test_a_line_of_millions_of_characters_is_a_bad_row_of_little_text(tmp_path):
    long = "x" * (5 * text.MAX_LINE_CHARACTERS)
    found = read(tmp_path, f"image,labels\na.jpg,{long}\nb.jpg,cat\n")
    assert "a line of more than" in found[0].detail
    assert len(found[0].text) == 500
    assert found[1] == ImageRow("b.jpg", "b.jpg", said("cat"), "0:3")


def test_json_lines_give_labels_as_a_list_or_as_text(tmp_path):
    lines = (
        '{"path": "a.jpg", "labels": ["x|y", "cat"]}\n'
        '{"path": "b.jpg", "labels": "dog|cat"}\n'
        '{"path": "c.jpg", "labels": null}\n'
        '{"path": "d.jpg", "labels": [3]}\n'
    )
    found = read(tmp_path, lines, "rows.jsonl")
    assert [labels(row) for row in found] == [["x|y", "cat"], ["dog", "cat"], [], ["3"]]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"path": "a.jpg"}', '{"path": 1.5, "labels": []}',
     '{"path": "a.jpg", "labels": {"cat": 1}}', '{"path": "a.jpg", "labels": [null]}',
     '{"path": "\\ud800.jpg", "labels": []}', "[" * 100_000],
)  # fmt: skip
def test_a_json_line_of_the_wrong_kind_is_a_bad_row(tmp_path, line):
    lines = '{"path": "a.jpg", "labels": ["cat"]}\n' + line + "\n"
    assert [type(row) for row in read(tmp_path, lines, "rows.jsonl")] == [ImageRow, BadRow]


def test_a_json_line_has_its_id_or_its_path_whatever_the_first_line_has(tmp_path):
    lines = (
        '{"path": "a.jpg", "labels": []}\n'
        '{"path": "b.jpg", "labels": [], "image_id": "7"}\n'
        '{"path": "c.jpg", "labels": []}\n'
    )
    found = read(tmp_path, lines, "rows.ndjson")
    assert [row.image_id for row in found] == ["a.jpg", "7", "c.jpg"]


def test_columns_that_only_later_json_lines_have_are_found(tmp_path):
    lines = (
        '{"path": "a.jpg", "width": 3}\n'
        "{\n"
        '{"path": "b.jpg", "Tags": ["cat"], "sure": 0, "image": "not this one"}\n'
        '{"Tags": ["dog"], "sure": 1, "labels": ["nor these"], "path": "c.jpg"}\n'
    )
    found = read(tmp_path, lines, "rows.jsonl", confidence_column="sure")
    assert [row.detail for row in found[:2]] == ["no 'Tags' in the row", found[1].detail]
    assert [(row.uri, row.annotations) for row in found[2:]] == [
        ("b.jpg", (Annotation("cat", 0.0),)),
        ("c.jpg", (Annotation("dog"),)),
    ]
    found = read(tmp_path, lines, "rows.jsonl", labels_column="labels")
    assert [labels(row) for row in found[3:]] == [["nor these"]]


def test_columns_are_looked_for_in_the_first_json_lines_alone(tmp_path, monkeypatch):
    first = '{"path": "a.jpg"}\n'
    last = '{"path": "b.jpg", "labels": []}\n'
    assert len(read(tmp_path, first * 999 + last, "rows.jsonl")) == 1000
    message = "rows.jsonl:1: no column for the labels: .* Columns found: path; usual names: labels"
    with pytest.raises(SourceError, match=message):
        read(tmp_path, first * 1000 + last, "rows.jsonl")
    monkeypatch.setattr(text, "_FIRST_BYTES", len(first + last) - 3)
    with pytest.raises(SourceError, match=message):
        read(tmp_path, first + last, "rows.jsonl")


def test_a_json_line_without_the_confidence_that_is_named_is_a_bad_row(tmp_path):
    lines = (
        '{"path": "a.jpg", "labels": ["cat"], "sure": 0}\n'
        '{"path": "b.jpg", "labels": ["cat"]}\n'
        '{"path": "c.jpg", "labels": []}\n'
    )
    found = read(tmp_path, lines, "rows.jsonl", confidence_column="sure")
    assert [type(row) for row in found] == [ImageRow, BadRow, ImageRow]
    assert "no 'sure' in the row, which --confidence_column names" in found[1].detail


def test_the_optional_columns_are_read_where_they_are(tmp_path):
    md5 = "d41d8cd98f00b204e9800998ecf8427e"
    found = read(
        tmp_path,
        "image,labels,confidence,label_source,rotation,md5,set\n"
        f"a.jpg,cat,0.7,machine,90.0,{md5.upper()},train\n"
        "b.jpg,cat|dog,0,verification,nan,1B2M2Y8AsgTpgAmY7PhCfg==,eval\n"
        "c.jpg,cat|dog,0|0.5,,,,\n"
        "d.jpg,cat,0,machine,,,\n"
        'e.jpg,cat|dog,0,"[""machine"", ""crowd""]",,,\n',
        split_column="set",
    )
    machine, crowd, verified = "machine", "crowd", "verification"
    assert found == [
        ImageRow("a.jpg", "a.jpg", (Annotation("cat", 0.7, machine),), "0:2", f"md5:{md5}", 90,
                 "train"),
        ImageRow("b.jpg", "b.jpg", (Annotation("cat", 0, verified), Annotation("dog", 0, verified)),
                 "0:3", f"md5:{md5}", 0, "eval"),
        ImageRow("c.jpg", "c.jpg", (Annotation("cat", 0), Annotation("dog", 0.5)), "0:4"),
        ImageRow("d.jpg", "d.jpg", (), "0:5"),  # the machine's 0 says nothing
        ImageRow("e.jpg", "e.jpg", (Annotation("dog", 0, crowd),), "0:6"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "cell", "detail"),
    [
        ("confidence", "1.5", "a confidence is from 0 to 1: '1.5'"),
        ("confidence", "nan", "a confidence is from 0 to 1: 'nan'"),
        ("confidence", "high", "the confidence is no number: 'high'"),
        ("confidence", "0.5|0.6|0.7", "3 confidences for 2 labels"),
        ("label_source", "a|b|c", "3 label sources for 2 labels"),
        ("rotation", "45", "a rotation is 0, 90, 180 or 270 degrees: '45'"),
        ("rotation", "left", "the rotation is no number: 'left'"),
        ("checksum", "abc", "a checksum is an md5 or sha256 in hex or base64: 'abc'"),
        ("checksum", "md5:" + "0" * 64, "a checksum is an md5 or sha256"),
        ("checksum", "é" * 24, "a checksum is an md5 or sha256"),
    ],
)
def test_a_cell_that_makes_no_sense_is_a_bad_row_that_says_so(tmp_path, column, cell, detail):
    found = read(tmp_path, f"image,labels,{column}\na.jpg,cat|dog,{cell}\nb.jpg,cat,\n")
    assert isinstance(found[0], BadRow)
    assert detail in found[0].detail
    assert found[1] == ImageRow("b.jpg", "b.jpg", said("cat"), "0:3")


def test_a_checksum_may_be_hex_or_base64_with_or_without_its_name(tmp_path):
    sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    cells = [sha256, f"sha256:{sha256}", f"SHA256:{sha256.upper()}", base64, f"sha256:{base64}"]
    lines = "".join(f"{index}.jpg,cat,{cell}\n" for index, cell in enumerate(cells))
    found = read(tmp_path, f"image,labels,sha256\n{lines}")
    assert [row.checksum for row in found] == [f"sha256:{sha256}"] * 5


def test_lists_beside_the_labels_are_aligned_with_them(tmp_path):
    line = {"path": "a.jpg", "labels": ["cat", "dog"], "confidence": [0, None]}
    line["label_source"] = ["crowd", "machine"]
    found = read(tmp_path, json.dumps(line), "rows.jsonl")
    assert found[0].annotations == (Annotation("cat", 0, "crowd"), Annotation("dog", 1, "machine"))


MANY = (Annotation("cat"), Annotation("a|b", 0.0, "crowd"), Annotation("dog", 0.25),
        Annotation('say "hi"', 1.0, "machine"))  # fmt: skip


@pytest.mark.parametrize(
    "annotations",
    [said("cat", "dog"), said("a|b", "c"), said('say "hi"', "x|y"), (), MANY, MANY[1:2],
     said('["cat"]'), said("[{x}]"), said("|")],
)  # fmt: skip
def test_dead_letters_read_back_the_same(tmp_path, annotations):
    cell = format_labels(annotations, "|")
    file = io.StringIO("image_path,labels,image_id,reason,detail,source\n")
    file.seek(0, io.SEEK_END)
    csv.writer(file).writerow(["a.jpg", cell, "7", "not_found", "no file", "machine"])
    found = read(tmp_path, file.getvalue())
    assert found == [ImageRow("7", "a.jpg", annotations, "0:2")]


def test_dead_letters_that_name_no_image_are_passed_over(tmp_path):
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(DeadLetter._fields)
    writer.writerows([
        dead_letter("bad_row", 'no CSV: "x', "rows.csv:2"),
        dead_letter("not_found", "no file", "rows.csv:3", "a.jpg", "cat", "7"),
        dead_letter("bad_row", "another", "rows.csv:4", "b.jpg", "dog", "8"),
        dead_letter("not_found", "no row says where the image is", "rows.csv:5", "", "cat", "9"),
    ])  # fmt: skip
    first, second, without_path = read(tmp_path, file.getvalue())
    assert first == ImageRow("7", "a.jpg", said("cat"), "0:3")
    assert second == ImageRow("8", "b.jpg", said("dog"), "0:4")
    assert without_path.detail == "the image is empty"


def test_a_file_of_nothing_but_bad_rows_has_none_to_try_again(tmp_path):
    lines = f"{','.join(DeadLetter._fields)}\n,,,,0,bad_row,no image,rows.csv:2\n"
    assert read(tmp_path, lines) == []


def test_an_empty_image_in_a_file_without_places_is_a_bad_row(tmp_path):
    (bad,) = read(tmp_path, "image_path,labels,reason\n,cat,bad_row\n")
    assert bad.detail == "the image is empty"


def test_plain_labels_are_written_as_plain_text():
    assert format_labels(said("cat", "dog"), "|") == "cat|dog"
    assert json.loads(format_labels((*said("cat"), Annotation("dog", 0.0)), "|")) == [
        "cat",
        {"label": "dog", "confidence": 0.0},
    ]


def test_an_object_among_labels_has_no_other_keys(tmp_path):
    found = read(tmp_path, '{"path": "a.jpg", "labels": [{"label": "cat", "score": 1}]}', "r.jsonl")
    assert "an object among labels has only label, confidence, source" in found[0].detail


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("rows.txt", "x", {}, "ends with one of .csv, .tsv, .jsonl, .ndjson, .parquet"),
        ("rows.csv", "a,b\n", {}, "no column for the image: name it with --image_column"),
        ("rows.csv", "image,labels,labels\n", {}, "rows.csv:1: the header names a column twice"),
        ("rows.csv", "image,labels\n", {"labels_column": "tag"}, "no column 'tag'"),
        ("rows.csv", "image,labels\n", {"rotation_column": "r"}, "'r' .--rotation_column."),
        ("rows.jsonl", "image,labels\n", {}, "the first line is no JSON"),
        ("rows.jsonl", "[" * 100_000 + "\n", {}, "the first line is no JSON"),
        ("rows.jsonl", "[]\n", {}, "a line is a JSON object. Received: \\[\\]"),
        ("rows.csv", "image,Labels,labels\n", {}, "columns Labels and labels are alike"),
        ("rows.csv", "image,labels\ra.jpg,cat\r", {}, "lines end with CR alone"),
        ("rows.csv", '"image,labels\n', {}, "rows.csv:1: the header line is no CSV"),
        ("rows.csv", gzip.compress(b"image,labels\n"), {}, "the first line is not UTF-8 text"),
        ("rows.csv", "image,labels\n".encode("utf-16"), {}, "the first line is not UTF-8 text"),
        ("rows.csv", "image,labels\n".encode("utf-16-le"), {}, "the first line is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, name, data, options, message):
    path = write(tmp_path, data, name)
    with pytest.raises(SourceError, match=message):
        source(path, **options).inventory()


def test_a_glob_without_a_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        source(tmp_path / "*.csv").inventory()
    with pytest.raises(SourceError, match="is a folder: name its files"):
        source(tmp_path).inventory()


def test_a_truncated_gz_is_an_error_that_names_the_file(tmp_path):
    text = "image,labels\n" + "".join(f"{random.random()}.jpg,cat\n" for _ in range(1000))
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(text.encode())[:-20])
    with pytest.raises(SourceError, match=r"rows.csv.gz: a damaged .gz file"):
        source(path).inventory()


def test_columns_that_differ_in_case_can_be_named(tmp_path):
    found = read(tmp_path, "image,Labels,labels\na.jpg,cat,dog\n", labels_column="Labels")
    assert found == [ImageRow("a.jpg", "a.jpg", said("cat"), "0:2")]


def test_columns_without_a_name_are_ignored(tmp_path):
    found = read(tmp_path, "image,labels,,\na.jpg,cat,x,y\n")
    assert found == [ImageRow("a.jpg", "a.jpg", said("cat"), "0:2")]


def test_a_space_after_a_comma_is_no_part_of_a_cell(tmp_path):
    found = read(tmp_path, 'image, labels\na.jpg, "cat|say, dog"\n')
    assert found == [ImageRow("a.jpg", "a.jpg", said("cat", "say, dog"), "0:2")]


@pytest.mark.parametrize("data", ["", "\n \r\n", "image,labels\n"])
def test_a_file_without_a_row_has_none(tmp_path, data):
    manifest = source(write(tmp_path, data))
    assert manifest.inventory().num_rows == 0
    assert read_all(manifest) == []


def test_several_files_each_have_their_own_columns(tmp_path):
    write(tmp_path, "image,labels\na.jpg,cat\n", "1.csv")
    write(tmp_path, '{"tags": ["dog"], "path": "b.jpg"}\n', "2.jsonl.gz")
    write(tmp_path, "class\tfile\ncat\tc.jpg\n", "3.tsv")
    manifest = source(f"{tmp_path}/*.csv,{tmp_path}/*.gz, {tmp_path}/3.tsv,{tmp_path}/1.csv")
    assert [path[-5:] for path in manifest.inventory().files] == ["1.csv", "nl.gz", "3.tsv"]
    assert [(row.uri, labels(row), row.place) for row in read_all(manifest)] == [
        ("a.jpg", ["cat"], "0:2"), ("b.jpg", ["dog"], "1:1"), ("c.jpg", ["cat"], "2:2"),
    ]  # fmt: skip


def test_the_digest_is_of_contents_and_of_how_they_are_read(tmp_path):
    first, second = "image,labels\na.jpg,cat\n", "image,labels\nb.jpg,cat\n"
    for name, data in {"1.csv": first, "2.csv": second, "x/2.csv.gz": first, "x/1.csv": second,
                       "y/1.tsv": first, "y/2.csv": second}.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, data, name)
    digest = source(f"{tmp_path}/*.csv").inventory().digest
    assert source(f"{tmp_path}/x/*").inventory().digest == digest
    with pytest.raises(SourceError):
        source(f"{tmp_path}/y/*").inventory()  # a TSV without tabs
    assert source(f"{tmp_path}/*.csv", label_delimiter=";").inventory().digest != digest
    assert source(f"{tmp_path}/1.csv").inventory().digest != digest


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.csv.gz"])
def test_parts_give_the_rows_of_the_whole_with_their_lines(tmp_path, monkeypatch, name):
    generator = random.Random(1)
    lines = ["\ufeff", "\n"]
    for index in range(2000):
        row = f"{index}.jpg", "|".join(["cat"] * generator.randrange(9))
        ending = generator.choice(["\n", "\r\n", "\n\n"])
        as_json = json.dumps({"image": row[0], "labels": row[1]})
        lines.append((as_json if "json" in name else ",".join(row)) + ending)
    if "csv" in name:
        lines.insert(2, "image,labels\n")
    path = write(tmp_path, "".join(lines).rstrip(), name)  # no line feed at the end
    whole = read_all(source(path))
    assert [row.uri for row in whole] == [f"{index}.jpg" for index in range(2000)]
    numbered = "".join(lines).rstrip().split("\n")
    assert all(row.uri in numbered[int(row.place[2:]) - 1] for row in whole)
    monkeypatch.setattr(text, "PART_BYTES", 5000)
    monkeypatch.setattr(text, "_BLOCK_BYTES", 700)
    parts = source(path).inventory().parts
    assert len(parts) == 1 if name.endswith(".gz") else len(parts) > 5
    assert read_all(source(path)) == whole
    num_lines_before = 2 if "csv" in name else 1
    assert source(path).inventory().num_rows == len(numbered) - num_lines_before


def test_the_images_of_a_long_form_are_estimated(tmp_path):
    lines = "".join(f"{index}.jpg,{label}\n" for index in range(100) for label in "abc")
    path = write(tmp_path, f"image,labels\n{lines}")
    assert source(path).inventory().num_images == 300
    found = source(path, long_form=True).inventory()
    assert (found.num_rows, found.num_images) == (300, 100)


ODD_CELLS = ["cat", "cat|dog", " cat ", "", "|", "a||b", '["a|b"]', '["', "[x]", "[{}]", '"',
             "\x1f", "é", "\u2028x", "\xa0", "x\x85", "0", "0.5", "-0.0", "1", "nan", "0.5|1",
             "[0, 1]", "machine", "machine|", "90", "1e400", "d41d8cd98f00b204e9800998ecf8427e",
             "\t", "\x00", "\udcff", "[" * 5000,
             '[{"label": "x", "confidence": 0}, "y"]']  # fmt: skip
PLAIN_CELLS = {"image": "1", "labels": "1", "image_id": "7", "confidence": "0", "label_source": "x",
               "checksum": "", "rotation": "90", "set": "train"}  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("seed", range(8))
def test_rows_read_in_bulk_are_what_each_line_gives_alone(tmp_path, suffix, seed):
    generator = random.Random(f"{suffix}{seed}")
    names = ["image", "labels", *generator.sample(list(PLAIN_CELLS)[2:], seed % 4)]
    separator = "\t" if suffix == "tsv" else ","
    is_json = suffix == "jsonl"
    lines = [json.dumps(PLAIN_CELLS) if is_json else separator.join(names)]
    for _ in range(300):
        cells = [
            generator.choice(ODD_CELLS) if generator.random() < 0.3 else PLAIN_CELLS[name]
            for name in names
        ]
        if is_json and generator.random() < 0.3:
            cells = [generator.choice([cell, [cell], 0.5, None, True, 1]) for cell in cells]
        as_json = json.dumps(dict(zip(names, cells, strict=True)))
        lines.append(as_json if is_json else separator.join(cells))
    data = "\n".join(lines).encode("utf-8", "surrogateescape")
    options = {"split_column": "set"} if "set" in names else {}
    manifest = source(write(tmp_path, data, f"rows.{suffix}"), **options)
    bulk = read_all(manifest)
    part = manifest.inventory().parts[0]
    reader = manifest._lines(part.path, text.head(part.path))
    alone = [
        reader.row(line, f"0:{part.first + index}")
        for index, line in enumerate(line for chunk in text.lines(part) for line in chunk)
    ]
    expected = [rows.decode(rows.encode(row).decode()) for row in alone if row is not None]
    assert bulk == expected
    assert {type(row) for row in bulk} == {ImageRow, BadRow}
