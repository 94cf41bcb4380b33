import base64
import hashlib
import io
import pickle
import random
import tarfile

import pytest

from pipeline import rows
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import image_labels
from pipeline.sources.image_labels import LabelFile
from pipeline.sources.open_images import OpenImages
from pipeline.sources.source import SourceError, SourceOptions

LABELS = "ImageID,Source,LabelName,Confidence\n"
BOXES_V3 = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
BOXES_V6 = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside,XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y\n"
)
INFO_V3 = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
    "OriginalSize,OriginalMD5,Thumbnail300KURL\n"
)
INFO_V6 = INFO_V3.replace("\n", ",Rotation\n")
MD5 = hashlib.md5(b"uploaded", usedforsecurity=False)
CAT, DOG = "/m/01yrx", "/m/0bt9lr"


def verified(label, confidence=1.0, source="verification"):
    return Annotation(label, confidence, source)


class Place:
    """A folder with images and label files."""

    def __init__(self, path):
        self.path = path

    def write(self, name, data):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(path)

    def source(self, labels="*labels.csv", image_info=None, images="images", **options):
        return OpenImages(
            SourceOptions(
                "open_images",
                images=str(self.path / images),
                labels=str(self.path / labels),
                image_info=image_info and str(self.path / image_info),
                **options,
            )
        )

    def read(self, **options):
        """Every row, read as a worker reads it, by file name."""
        source = self.source(**options)
        inventory = source.inventory()
        source = pickle.loads(pickle.dumps(source))  # noqa: S301
        found = {path.split("/")[-1]: [] for path in inventory.files}
        for part in inventory.parts:
            for batch in source.batches(part, str(self.path / "unpacked")):
                found[part.path.split("/")[-1]] += [
                    rows.decode(line.decode()) for line in batch.lines.to_pylist()
                ]
        return found


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path)
    found.write("images/train/000002b66c9c498e.jpg", b"")
    return found


def test_a_human_zero_is_a_verified_negative_and_a_machines_is_left_out(place):
    place.write(
        "train-annotations-human-imagelabels.csv",
        LABELS + "000026e7ee790996,verification,/m/04hgtk,0\n"
        "000026e7ee790996,crowdsource-verification,/m/01bqvp,1\n",
    )
    place.write(
        "train-annotations-machine-imagelabels.csv",
        LABELS + "000002b66c9c498e,machine,/m/05_4_,0.7\n000002b66c9c498e,machine,/m/014j1m,0.0\n",
    )
    human, machine = "000026e7ee790996", "000002b66c9c498e"
    assert place.read() == {
        "train-annotations-human-imagelabels.csv": [
            ImageRow(
                human, f"train/{human}.jpg", (verified("/m/04hgtk", 0.0),), "0:2", "", 0, "train"
            ),
            ImageRow(
                human,
                f"train/{human}.jpg",
                (verified("/m/01bqvp", 1.0, "crowdsource-verification"),),
                "0:3",
                split="train",
            ),
        ],
        "train-annotations-machine-imagelabels.csv": [
            ImageRow(
                machine,
                f"train/{machine}.jpg",
                (verified("/m/05_4_", 0.7, "machine"),),
                "1:2",
                split="train",
            ),
            ImageRow(machine, f"train/{machine}.jpg", (), "1:3", split="train"),
        ],
    }


@pytest.mark.parametrize(
    ("name", "subset"),
    [
        ("train-annotations-human-imagelabels.csv", "train"),
        ("oidv6-train-annotations-human-imagelabels.csv", "train"),
        ("validation-annotations-machine-imagelabels.csv", "validation"),
        ("oidv7-test-annotations-human-imagelabels.csv", "test"),
        ("2017_11/validation/annotations-human.csv", "validation"),
    ],
)
def test_the_subset_is_in_the_name_of_the_file_or_of_its_folder(place, name, subset):
    place.write(name, LABELS + f"1,verification,{CAT},1\n")
    (found,) = place.read(labels=name).values()
    assert [(row.uri, row.split) for row in found] == [(f"{subset}/1.jpg", subset)]


def test_the_only_split_column_is_the_subset(place):
    place.write("train-labels.csv", LABELS + f"1,verification,{CAT},1\n")
    assert [row.split for row in place.read(split_column="Subset")["train-labels.csv"]] == ["train"]
    for column in ("subset", "Source"):
        with pytest.raises(SourceError, match=f"={column}: the split column of Open .* is Subset"):
            place.source(split_column=column).inventory()


def test_a_header_misspelt_as_in_copies_of_tfds_is_read(place):
    name = "train-human-labels.csv"
    place.write(name, f"ImageID,Source,LabelName,Condidence\r\n1,verification,{CAT},1\r\n")
    assert [row.annotations for row in place.read()[name]] == [(verified(CAT),)]


def test_boxes_are_positives_whatever_columns_they_have(place):
    place.write(
        "train-annotations-bbox.csv",
        BOXES_V6 + f"1,xclick,{CAT},1,0.1,0.2,0.3,0.4,0,1,0,0,0,.1,.1,.1,.1,.1,.1,.1,.1\n",
    )
    place.write("v3/train/annotations-human-bbox.csv", BOXES_V3 + f"2,xclick,{DOG},1,0,0.5,0,1\n")
    found = place.read(labels="train-annotations-bbox.csv," + str(place.path / "v3/*/*bbox.csv"))
    assert [row.annotations for file in found.values() for row in file] == [
        (verified(CAT, 1.0, "xclick"),),
        (verified(DOG, 1.0, "xclick"),),
    ]


def test_image_files_bring_checksum_rotation_and_subset(place):
    place.write("train-labels.csv", LABELS)
    md5 = base64.b64encode(MD5.digest()).decode()
    before = "https://f.org/a.jpg,https://f.org/a,https://creativecommons.org/,https://f.org/p"
    place.write(
        "info.csv",
        INFO_V6 + f'1,train,{before},"Doe, ""Jo"" J.","Ships, and\nwaves",10,{md5},,90.0\n'
        f"2,validation,{before},Jo,Title,10,,,\n"
        f"3,test,{before},Jo,Title,10,{md5},,nan\n"
        f"4,train,{before},Jo,Title,10,{md5},,45\n"
        f"5,train,{before},Jo\n"
        f"6,train,{before},Jo,Title,10,{md5},,270\n",
    )
    found = place.read(image_info="info.csv")["info.csv"]
    checksum = f"md5:{MD5.hexdigest()}"
    assert found[:3] == [
        ImageRow("1", "train/1.jpg", (), "0:2", checksum, 90, "train"),
        ImageRow("2", "validation/2.jpg", (), "0:4", "", 0, "validation"),
        ImageRow("3", "test/3.jpg", (), "0:5", checksum, 0, "test"),
    ]
    assert [(row.detail, row.place) for row in found[3:5]] == [
        ("a rotation is 0, 90, 180 or 270 degrees: '45'", "0:6"),
        ("7 cells up to line 7, below a header of 12", "0:7"),
    ]
    assert found[5] == ImageRow("6", "train/6.jpg", (), "0:8", checksum, 270, "train")


def test_image_files_before_v4_have_no_rotation(place):
    place.write("train-labels.csv", LABELS)
    place.write("info.csv", INFO_V3 + "1,train,u,l,c,p,Jo,Title,10,,\n")
    assert place.read(image_info="info.csv")["info.csv"] == [
        ImageRow("1", "train/1.jpg", (), "0:2", split="train")
    ]


def test_a_title_that_is_never_closed_costs_some_rows_and_says_which(place):
    place.write("train-labels.csv", LABELS)
    line = "{},train,u,l,c,p,Jo,{},10,,,\n"
    lines = [line.format(i, '"open' if i == 5 else "t" * 100) for i in range(3000)]
    place.write("info.csv", INFO_V6 + "".join(lines))
    found = place.read(image_info="info.csv")["info.csv"]
    (bad,) = [row for row in found if isinstance(row, BadRow)]
    assert bad.place == "0:7"
    assert "no CSV up to line " in bad.detail
    last = int(bad.detail.split("line ")[1].split(":")[0])
    assert [row.image_id for row in found if row != bad] == [
        *map(str, range(5)),
        *map(str, range(last - 1, 3000)),
    ]


def test_images_may_lie_flat_in_a_folder(place):
    place.write("flat/1.jpg", b"")
    place.write("labels.csv", LABELS + f"1,verification,{CAT},1\n")
    assert place.read(images="flat") == {
        "labels.csv": [ImageRow("1", "1.jpg", (verified(CAT),), "0:2")]
    }


def test_where_the_subset_is_unknown_image_files_have_the_uri(place):
    place.write("human-labels.csv", LABELS + f"1,verification,{CAT},1\n")
    place.write("info.csv", INFO_V3 + "1,test,u,l,c,p,Jo,Title,10,,\n")
    found = place.read(image_info="info.csv")
    assert [row.uri for row in found["human-labels.csv"]] == [""]
    assert [row.uri for row in found["info.csv"]] == ["test/1.jpg"]
    with pytest.raises(SourceError, match="the folder of its images is unknown: give --image_info"):
        place.source().inventory()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
def test_images_in_archives_are_references(place, suffix):
    place.write("train-labels.csv", LABELS + f"1,verification,{CAT},1\n")
    for letter, names in (("0", ["1", "2"]), ("f", ["3"])):
        path = place.path / f"train_{letter}{suffix}"
        with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as archive:
            for name in names:
                info = tarfile.TarInfo(f"train_{letter}/{name}.jpg")
                info.size = len(name) + 5
                archive.addfile(info, io.BytesIO(b"image" + name.encode()))
    place.write(f"train_x{suffix}", b"\0" * 700)
    found = place.read(images=f"train_[0-f]{suffix}")
    assert [row.uri for row in found.pop("train-labels.csv")] == [""]
    images = [row for file in sorted(found) for row in found[file]]
    assert [(row.image_id, row.place, row.split) for row in images] == [
        ("1", "1:1", "train"),
        ("2", "1:2", "train"),
        ("3", "2:1", "train"),
    ]
    for row in images:
        path, _, span = row.uri.rpartition("#")
        offset, length = map(int, span.split("+"))
        with open(path, "rb") as stream:
            stream.seek(offset)
            assert stream.read(length) == b"image" + row.image_id.encode()


def test_a_damaged_archive_is_one_bad_row_behind_what_can_be_read(place):
    place.write("train-labels.csv", LABELS)
    path = place.path / "train_0.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("train_0/1.jpg", "train_0/LICENSE", "train_0/2.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 600
            archive.addfile(info, io.BytesIO(bytes(600)))
    path.write_bytes(path.read_bytes()[:4000])
    found = place.read(images="train_?.tar")["train_0.tar"]
    assert [(row.place, getattr(row, "detail", "")) for row in found] == [
        ("1:1", ""),
        ("1:2", "no .jpg file"),
        ("1:3", "cut off at byte 4000, within 'train_0/2.jpg' of 600 bytes"),
    ]


BAD_LINES = [
    ("1,verification,/m/1", "3 cells below a header of 4"),
    ("1,verification,/m/1,1,1", "5 cells below a header of 4"),
    ("1,verification,/m/1,1.5", "a confidence is from 0 to 1: '1.5'"),
    ("1,verification,/m/1,nan", "a confidence is from 0 to 1: 'nan'"),
    ("1,verification,/m/1,high", "the confidence is no number: 'high'"),
    ("1,verification,/m/1,", "the confidence is empty"),
    ("1,verification,,1", "the label is empty"),
    (",verification,/m/1,1", "the image id is empty"),
    ("1,,/m/1,1", "the label source is empty"),
    ("1,verification,/m/\x01,1", "the label holds a control character: '/m/\\x01'"),
    ('1,verification,"/m/1,1', "no CSV: unexpected end of data"),
    ("1,verification,/m/\udcff,1", "not UTF-8"),
]


@pytest.mark.parametrize(("line", "detail"), BAD_LINES)
def test_a_bad_line_is_one_bad_row_with_its_line(place, line, detail):
    good = f"7,verification,{CAT},1\n"
    data = (LABELS + good * 2 + line + "\n\n" + good).encode("utf-8", "surrogateescape")
    place.write("train-labels.csv", data)
    found = place.read()["train-labels.csv"]
    assert [row.place for row in found] == ["0:2", "0:3", "0:4", "0:6"]
    assert found[2].detail == detail
    assert [row.image_id for row in (*found[:2], found[3])] == ["7"] * 3


LABEL_FILES = [
    LabelFile(3, 4, "train", "train/"), LabelFile(0, 4, "", ""), LabelFile(12, 4, "test", None),
    LabelFile(0, 6, "", None),
]  # fmt: skip


@pytest.mark.parametrize("file", LABEL_FILES)
def test_vectorised_batches_are_those_of_single_rows(file):
    chance = random.Random(7)
    lines = [
        ",".join([
            f"{chance.getrandbits(64):016x}",
            chance.choice(["verification", "crowdsource-verification", "machine"]),
            f"/m/0{chance.randrange(500):x}",
            chance.choice(["0", "0.0", "-0.0", "1", "1.0", "0.5", "0.123456789", "1e-3"]),
            *["0.25"] * (file.num_columns - 4),
        ])
        for _ in range(2000)
    ]  # fmt: skip
    expected = rows.Batch.of(list(image_labels._by_line(lines, 100, file)))
    for end in ("", "\r"):
        found = image_labels._vectorised([line + end for line in lines], 100, file)
        assert found is not None
        assert found.lines.equals(expected.lines)
        assert (found.keys, found.splits) == (expected.keys, expected.splits)


def test_no_vectorised_batch_differs_from_single_rows_whatever_the_lines():
    pieces = ["1", "ab", "/m/1", "machine", "0", "1", "0.5", ",", ",", '"', " ", "\u00a0", "é",
              "\x01", "\r", "\t", "\udc80", "", "nan", "1_0", "\x85", "٣", "\0"]  # fmt: skip
    file = LabelFile(0, 4, "train", "train/")
    num_vectorised = 0
    for seed in range(3000):
        chance = random.Random(seed)
        lines = ["1,machine,/m/1,0.5"] * chance.randrange(3)
        for _ in range(chance.randrange(1, 3)):
            cells = ["1", "machine", "/m/1", "0.5"]
            for _ in range(chance.randrange(3)):
                cells[chance.randrange(4)] = "".join(chance.choices(pieces, k=chance.randrange(3)))
            lines.append(",".join(cells))
        found = image_labels._vectorised(lines, 1, file)
        if found is not None:
            num_vectorised += 1
            expected = rows.Batch.of(list(image_labels._by_line(lines, 1, file)))
            assert found.lines.to_pylist() == expected.lines.to_pylist()
            assert (found.keys, found.splits) == (expected.keys, expected.splits)
    assert num_vectorised > 100


def test_large_files_are_cut_and_no_line_is_lost_or_misnumbered(place, monkeypatch):
    monkeypatch.setattr("pipeline.sources.text.PART_BYTES", 10_000)
    monkeypatch.setattr("pipeline.sources.text._BLOCK_BYTES", 1_000)
    lines = [f"{i // 9:016x},machine,{CAT},0.{i % 9 + 1}" for i in range(2000)]
    place.write("train-labels.csv", LABELS + "\n".join(lines))
    inventory = place.source().inventory()
    assert len(inventory.parts) > 5
    assert inventory.num_rows == 2000
    assert inventory.num_images == pytest.approx(2000 / 9, rel=0.2)
    found = place.read()["train-labels.csv"]
    assert [row.place for row in found] == [f"0:{i + 2}" for i in range(2000)]
    assert [row.annotations[0].confidence for row in found] == [
        (i % 9 + 1) / 10 for i in range(2000)
    ]


def test_images_are_estimated_by_subset(place):
    human = "".join(f"{i // 4:x},verification,{CAT},1\n" for i in range(400))
    place.write("train-human-labels.csv", LABELS + human)
    place.write("train-machine-labels.csv", LABELS + human.replace("verification", "machine"))
    place.write("test-human-labels.csv", LABELS + human)
    assert place.source().inventory().num_images == 200


def test_the_digest_is_of_the_contents_wherever_the_files_lie(place, tmp_path):
    human = LABELS + f"1,verification,{CAT},1\n"
    machine = LABELS + f"1,machine,{DOG},0.5\n"
    place.write("train-a-labels.csv", human)
    place.write("train-b-labels.csv", machine)
    digest = place.source().inventory().digest
    place.write("other/train-c-labels.csv", machine)
    place.write("other/train-d-labels.csv", human)
    assert place.source(labels="other/*.csv").inventory().digest == digest
    place.write("train-a-labels.csv", human.replace(",1\n", ",0\n"))
    assert place.source().inventory().digest != digest


@pytest.mark.parametrize(
    ("data", "received"),
    [
        ("image_path,labels\n", "Received: image_path,labels"),
        ("000002b66c9c498e,machine,/m/05_4_,0.7\n", "Received: 000002b66c9c498e,machine,"),
        (INFO_V6, "Received: ImageID,Subset,"),
        ("", "the file is empty"),
        (b"\x1f\x8b\x08\x00\xff\xff", "not UTF-8 text: is the file compressed"),
        ('"' + "x" * 140_000 + '"\n', "the header line is no CSV"),
    ],
)
def test_an_unknown_header_says_what_was_expected_and_received(place, data, received):
    place.write("train-labels.csv", data)
    with pytest.raises(SourceError, match=received) as raised:
        place.source().inventory()
    if "Received" in received:
        assert "train-labels.csv:1: --labels has another header" in str(raised.value)
        assert "Expected: ImageID,Source,LabelName,Confidence" in str(raised.value)


def test_label_files_are_no_image_files(place):
    place.write("train-labels.csv", LABELS)
    place.write("info.csv", LABELS)
    with pytest.raises(SourceError, match="Expected: a header with ImageID, Subset, OriginalMD5"):
        place.source(image_info="info.csv").inventory()


def test_no_label_file_and_no_image_are_errors(place):
    with pytest.raises(SourceError, match=r"--labels: no file matches .*labels\.csv"):
        place.source().inventory()
    place.write("train-labels.csv", LABELS)
    place.write("empty/train/readme.txt", "")
    with pytest.raises(SourceError, match=r"Expected below it: train/ID\.jpg, validation/ID\.jpg"):
        place.source(images="empty").inventory()
