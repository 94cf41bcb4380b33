"""report.html of a dataset folder: needs nothing from anywhere else, and never fails a job."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from pipeline import figures, metadata, publish, report, schema, tfrecord
from pipeline.labels import Vocabulary, class_counts_to_tsv

EVIL = "<script>alert(1)</script>"
LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}
VOID = {"meta", "input", "img", "br", "link"}


class Page(HTMLParser):
    """Collects what the page would load, its tags and its text; checks that tags are closed."""

    def __init__(self, html):
        super().__init__()
        self.loaded, self.tags, self.open, words = [], [], [], []
        self.handle_data = words.append
        self.feed(html)
        assert not self.open
        self.text = " ".join(" ".join(words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in LOADING]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def thumbnails(self):
        prefix = "data:image/jpeg;base64,"
        data = [base64.b64decode(url.removeprefix(prefix)) for url in self.loaded if prefix in url]
        return [Image.open(io.BytesIO(jpeg)) for jpeg in data]


def jpeg(width=300, height=200):
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(stream, "JPEG")
    return stream.getvalue()


class Dataset:
    """A folder with the files of a finished dataset."""

    def __init__(self, folder, names=("Cat", "Dog", EVIL, "Newt")):
        self.folder = Path(folder)
        self.vocabulary = Vocabulary(tuple(f"c{i}" for i in range(len(names))), tuple(names))
        self.vocabulary.write(self.folder / metadata.CLASSES_FILE)

    def add_split(self, split, complete=True, images=None, counts=None, **numbers):
        images = [jpeg()] * 30 if images is None else images
        records = [
            schema.encode(
                schema.Example(f"{split}/{i}{EVIL}", image, (0, 2), (1.0, 0.85), ("", ""))
            )
            for i, image in enumerate(images)
        ]
        shard = self.folder / metadata.shard_file(split, 0, 1)
        shard.write_bytes(b"".join(map(tfrecord.frame, records)))
        counts = [20, 30, 1, 0] if counts is None else counts
        (self.folder / metadata.class_counts_file(split)).write_text(
            class_counts_to_tsv(self.vocabulary, counts)
        )
        summary = {
            "format_version": schema.FORMAT_VERSION,
            "split": split,
            "num_rows": 50,
            "num_images": 45,
            "num_duplicates": 3,
            "num_examples": 30,
            "num_content_duplicates": 5,
            "num_held_out": 4,
            "num_left_out": 2,
            "num_bytes": shard.stat().st_size,
            "shard_lengths": [30],
            "labels_per_image": 1.7,
            "labels_per_image_histogram": {"1": 9, "2": 21},
            "source_shorter_sides": {"320": 10, "640": 20},
            "num_known_labels": 90,
            "num_unknown_labels": 10,
            "unknown_labels": {EVIL: 7, "yak": 3},
            "dead_letters": {"not_found": 4, "bad_row": 2},
            "recipe": {"split": split, "images": {"shorter_side": 400, "crop": None}},
            "fingerprint": "f" * 64,
            **numbers,
        }
        self.add_dead_letters(split, [("not_found", f'"><img src=x onerror=alert(1)>{EVIL}')])
        commits = self.folder / "commits" / split
        commits.mkdir(parents=True)
        (commits / "summary.json").write_text(json.dumps(summary))
        if complete:
            (self.folder / metadata.completed_file(split)).write_text(json.dumps(summary))
        return self

    def add_dead_letters(self, split, reasons_and_paths):
        with open(self.folder / metadata.dead_letters_file(split), "w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["image_path", "reason", "detail", "place"])
            for reason, path in reasons_and_paths:
                writer.writerow([path, reason, f"no {EVIL}", "train.csv:7"])

    def page(self, split=None):
        return Page(report.render(str(self.folder), split))


@pytest.fixture
def dataset(tmp_path):
    return Dataset(tmp_path)


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_run(dataset):
    html = report.render(str(dataset.add_split("train").folder))
    page = Page(html)
    assert page.loaded
    assert all(value.startswith(("data:image/jpeg;", "#")) for value in page.loaded)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_names_labels_paths_and_ids_are_shown_as_they_are(dataset):
    dataset.add_split("train", recipe={"label_delimiter": EVIL}, fingerprint=EVIL)
    html = report.render(str(dataset.folder))
    assert EVIL not in html
    assert "<img src=x" not in html
    # The class in the table and below 24 images, their 24 ids, the unknown label, the dead
    # letter's path and detail, the recipe and the fingerprint.
    assert html.count("&lt;script&gt;") == 1 + 24 + 24 + 1 + 2 + 2


def test_the_page_has_the_numbers_of_the_split(dataset):
    text = dataset.add_split("train").page().text
    assert "30 images" in text
    assert "3 of 4 classes with examples" in text
    assert "1.70 labels an image" in text
    assert "in 1 shard" in text
    # 50 rows: 45 images by id, 3 that another row has, 2 that cannot be read
    for step in (
        "in the shards 30 60.0%",
        "merged by id · another row has the same image id 3 6.0%",
        "merged by content · another image has the same content 5 10.0%",
        "held out · the content stands in an evaluation split 4 8.0%",
        "left out · fewer labels than --min_labels 2 4.0%",
        "dead letters · lost, for the reasons below 6 12.0%",
    ):
        assert step in text
    assert "unaccounted for" not in text
    assert "The median class has 10 examples; 1 has fewer than 10; 1 has none." in text
    assert "1 class without an example Newt" in text
    assert "10 of 100, 10.0%" in text
    assert "median image has a shorter side of about 640 pixels" in text
    assert "33.3% are smaller than the 400 asked for, and keep their size" in text
    assert "no <script>alert(1)</script> · train.csv:7" in text
    assert "Cat , <script>alert(1)</script> 85%" in text


def test_rows_that_the_numbers_do_not_account_for_are_said_to_be_so(dataset):
    assert "unaccounted for" in dataset.add_split("train", num_images=46).page().text


def test_rows_of_one_label_each_are_no_duplicates(dataset):
    text = dataset.add_split("train", num_rows=400, num_duplicates=0).page().text
    assert "400 rows speak of 45 images." in text
    assert "merged by id" not in text


def test_images_are_small_copies(dataset):
    images = [jpeg(1000, 100), jpeg(100, 1000), jpeg(40, 30), *[jpeg()] * 40]
    found = dataset.add_split("train", images=images).page().thumbnails()
    assert [image.size for image in found[:4]] == [(160, 16), (16, 160), (40, 30), (160, 107)]
    assert len(found) == 24


def test_a_split_with_too_many_dead_letters_is_said_to_be_incomplete_and_why(dataset):
    dataset.add_split("eval").add_split("train", complete=False)
    page = dataset.page("train")
    assert (
        "This split is not complete, and must not be used. More is lost than --max_failure_rate "
        "and --max_unknown_rate allow: 4 not_found, 2 bad_row, 10 of 100 labels unknown"
    ) in page.text
    assert page.text.count("must not be used") == 1
    assert len(page.thumbnails()) == 48


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({"problem": "the moon is full"}, "The moon is full"),
        ({"num_examples": 0}, "None of 50 rows gave an image: 4 not_found, 2 bad_row"),
        ({"num_unknown_labels": 910, "dead_letters": {}}, "allow: 910 of 1,000 labels unknown"),
    ],
)
def test_the_reason_is_the_one_that_stopped_the_split(dataset, numbers, reason):
    assert reason in dataset.add_split("train", complete=False, **numbers).page().text


def test_damaged_images_and_shards_are_passed_over(dataset):
    dataset.add_split("train", images=[jpeg()[:500], b"", *[jpeg()] * 5])
    shard = dataset.folder / metadata.shard_file("train", 0, 1)
    shard.write_bytes(shard.read_bytes()[:-10])  # in the last of seven records
    assert len(dataset.page().thumbnails()) == 4
    shard.unlink()
    assert len(dataset.page().thumbnails()) == 0


def test_missing_and_damaged_files_cost_only_what_they_hold(dataset):
    dataset.add_split("train")
    (dataset.folder / metadata.class_counts_file("train")).write_text("class\tcount\nc0\tmany\n")
    (dataset.folder / metadata.dead_letters_file("train")).write_bytes(b'\xff\0"\n' * 9)
    text = dataset.page().text
    assert "30 images" in text
    assert "not_found 4" in text
    assert "classes with examples" not in text
    (dataset.folder / metadata.class_counts_file("train")).unlink()
    (dataset.folder / metadata.dead_letters_file("train")).unlink()
    assert dataset.page().text == text


@pytest.mark.parametrize("wrong", [None, "many", -3, [], {"a": "b"}, {"7": -1}, float("nan")])
def test_numbers_of_a_wrong_kind_are_passed_over(dataset, wrong):
    kept = {"format_version", "split", "num_examples", "shard_lengths", "fingerprint"}
    dataset.add_split("train")
    path = dataset.folder / metadata.completed_file("train")
    marker = json.loads(path.read_text())
    path.write_text(json.dumps({k: v if k in kept else wrong for k, v in marker.items()}))
    assert "30 images" in dataset.page().text


def test_a_split_of_another_version_is_named_and_not_shown(dataset):
    dataset.add_split("eval").add_split("train", format_version=1)
    text = dataset.page().text
    assert "format version 1, but this code reads version" in text
    assert text.count("in 1 shard") == 1


def test_text_that_is_no_unicode_does_not_stop_the_page(dataset):
    dataset.add_split("train", unknown_labels={"\ud800x": 2})
    path = report.write(str(dataset.folder), "train")
    assert "?x" in Path(path).read_text()


def test_seventeen_thousand_classes_with_long_names_make_a_page_below_two_megabytes(tmp_path):
    names = [f"{i} " + "long name " * 50 for i in range(17_000)]
    dataset = Dataset(tmp_path, names)
    counts = [1_000_000 // (i + 1) for i in range(16_000)] + [0] * 1000
    for split in ("train", "eval", "fasteval"):
        dataset.add_split(split, counts=counts, num_examples=9_000_000)
    html = report.render(str(tmp_path))
    assert len(html) < 2_000_000
    assert "16,000 of 17,000" in Page(html).text


def test_of_a_huge_dead_letter_file_the_beginning_is_read(dataset):
    dataset.add_split("train", dead_letters={"not_found": 99_999, "corrupt_jpeg": 1})
    letters = [("not_found", f"{i:050}.jpg") for i in range(99_999)]
    dataset.add_dead_letters("train", [*letters, ("corrupt_jpeg", "last.jpg")])
    text = dataset.page().text
    assert f"{2:050}.jpg" in text
    assert f"{3:050}.jpg" not in text
    assert "corrupt_jpeg 1" in text
    assert "last.jpg" not in text


def test_the_largest_split_stands_first_and_the_named_or_incomplete_one_is_open(dataset):
    dataset.add_split("eval", num_examples=7).add_split("train")
    html = report.render(str(dataset.folder), "eval")
    assert html.index('<label for="tab-1">train') < html.index('<label for="tab-2">eval')
    assert 'id="tab-2" checked' in html
    assert 'id="tab-1" checked' in report.render(str(dataset.folder))
    dataset.add_split("test", complete=False, num_examples=8)
    assert 'id="tab-2" checked' in report.render(str(dataset.folder))


def test_the_same_folder_makes_the_same_page(dataset):
    dataset.add_split("train").add_split("eval")
    assert report.render(str(dataset.folder)) == report.render(str(dataset.folder))


def test_the_command_writes_the_page_and_says_where(dataset, capsys):
    dataset.add_split("train")
    assert report.main([str(dataset.folder)]) == 0
    assert capsys.readouterr().out.strip() == str(dataset.folder / "report.html")
    assert "30 images" in Page((dataset.folder / "report.html").read_text()).text


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "no dataset folder"), (".", "no split that a beam_runner.py command brought")],
)
def test_a_folder_without_a_split_is_refused_by_name(dataset, capsys, folder, message):
    assert report.main([str(dataset.folder / folder)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(dataset.folder) in error


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_without_the_packages_that_draw_there_is_no_page_and_no_fault(dataset, package):
    dataset.add_split("train")
    code = f"import sys; sys.modules[{package!r}] = None; from pipeline import report; "
    code += f"sys.exit(report.main([{str(dataset.folder)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install '.[report]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (dataset.folder / "report.html").exists()


def test_numbers_are_looked_for_where_the_job_leaves_them(dataset):
    dataset.add_split("train")
    assert Path(publish.summary_path(str(dataset.folder), "train")).exists()


@pytest.mark.parametrize(
    ("counts", "classes"), [([5, 3, 2], 1), ([2, 4, 3, 1], 2), ([1, 1, 1, 1], 2), ([7], 1)]
)
def test_half_of_all_labels_are_in_the_fewest_classes_that_hold_them(counts, classes):
    assert figures.classes_of_half(counts) == classes


@pytest.mark.parametrize(
    ("size", "bar"),
    [(0, (1, 16)), (16, (16, 32)), (112, (112, 128)), (240, (240, 256)), (272, (256, 288)),
     (1008, (960, 1024)), (1024, (1024, 1152)), (5008, (4608, 5120))],
)  # fmt: skip
def test_a_size_falls_into_a_bar_of_an_eighth_of_its_octave(size, bar):
    assert figures._size_bar(size) == bar


@pytest.mark.parametrize("counts", [[1], [3, 3], [10**9, 1], list(range(1, 17_001))])
def test_any_counts_can_be_drawn(counts):
    assert figures.long_tail(counts).startswith("<svg")


@pytest.mark.parametrize("images", [{0: 5}, {3: 1}, {0: 2, 700: 1}])
def test_any_histogram_can_be_drawn(images):
    assert ("30+" in figures.labels_per_image(images)) == (700 in images)
    assert figures.shorter_sides(images, None).startswith("<svg")
    assert "299 px" in figures.shorter_sides(images, 299)
