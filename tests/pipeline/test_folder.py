import os
import pickle

import pytest

from pipeline import rows
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.sources import folder
from pipeline.sources.folder import Folder
from pipeline.sources.source import SourceError, SourceOptions


def put(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def source_of(root, **options):
    return Folder(SourceOptions("folder", images=str(root), **options))


def read(source, inventory):
    """Every row, read as a worker reads it."""
    source = pickle.loads(pickle.dumps(source))  # noqa: S301
    return [
        rows.decode(line.decode())
        for part in inventory.parts
        for batch in source.batches(part, "unused")
        for line in batch.lines.to_pylist()
    ]


def row(path, label, place):
    return ImageRow(path, path, (Annotation(label),), place)


def test_the_first_folder_is_the_class_and_the_path_is_the_id(tmp_path):
    put(tmp_path, "n01440764/n01440764_10026.JPEG", "n01440764/n01440764_10027.JPEG")
    put(tmp_path, "n01443537/more/below/1.png", "n01443537/0.webp")
    source = source_of(tmp_path)
    inventory = source.inventory()
    assert (inventory.num_rows, inventory.num_images) == (4, 4)
    names = ("n01440764", "n01443537")
    assert inventory.files == (str(tmp_path), *(str(tmp_path / name) for name in names))
    assert read(source, inventory) == [
        row("n01440764/n01440764_10026.JPEG", "n01440764", "1:1"),
        row("n01440764/n01440764_10027.JPEG", "n01440764", "1:2"),
        row("n01443537/0.webp", "n01443537", "2:1"),
        row("n01443537/more/below/1.png", "n01443537", "2:2"),
    ]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    put(tmp_path, "cat/1.jpg", "cat/.DS_Store", ".git/config", "cat/.thumbnails/1.jpg", ".hidden")
    source = source_of(tmp_path)
    assert read(source, source.inventory()) == [row("cat/1.jpg", "cat", "1:1")]


def test_a_file_outside_any_class_is_a_bad_row(tmp_path):
    put(tmp_path, "cat/1.jpg", "README.txt")
    source = source_of(tmp_path)
    inventory = source.inventory()
    assert (inventory.num_rows, inventory.num_images) == (2, 1)
    assert read(source, inventory) == [
        BadRow("README.txt", "not in a folder that names its class", "0:1"),
        row("cat/1.jpg", "cat", "1:1"),
    ]


def test_names_that_cannot_travel_are_bad_rows(tmp_path):
    put(tmp_path, "cat/a\nb.jpg", "cat/\udcff.jpg", "cat/ok.jpg", "d\tog/1.jpg", "cow/1.jpg ")
    source = source_of(tmp_path)
    found = read(source, source.inventory())
    assert [one.image_id for one in found if isinstance(one, ImageRow)] == ["cat/ok.jpg"]
    details = sorted((one.text, one.detail) for one in found if isinstance(one, BadRow))
    assert details == [
        ("cat/\\udcff.jpg", "not UTF-8"),
        ("cat/a b.jpg", "the path holds a control character: 'cat/a\\nb.jpg'"),
        ("cow/1.jpg", "the path begins or ends with a blank"),
        ("d og/1.jpg", "the class holds a control character: 'd\\tog'"),
    ]


def test_a_class_may_be_a_link_and_no_link_leads_in_circles(tmp_path):
    put(tmp_path, "store/cats/1.jpg", "images/dog/2.jpg")
    images = tmp_path / "images"
    (images / "cat").symlink_to(tmp_path / "store" / "cats")
    (images / "dog" / "loop").symlink_to(images)
    (images / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(images / "dog" / "pipe")
    source = source_of(images)
    assert read(source, source.inventory()) == [
        row("cat/1.jpg", "cat", "1:1"),
        row("dog/2.jpg", "dog", "2:1"),
        BadRow("dog/gone.jpg", "no regular file", "2:2"),
        BadRow("dog/loop", "no regular file", "2:3"),
        BadRow("dog/pipe", "no regular file", "2:4"),
    ]


def test_the_digest_is_of_paths_and_sizes_wherever_the_folder_lies(tmp_path):
    for root in ("one", "two"):
        put(tmp_path / root, "b/2.jpg", "a/1.jpg", "a/c/3.jpg")
    digest = source_of(tmp_path / "one").inventory().digest
    assert source_of(tmp_path / "two").inventory().digest == digest
    (tmp_path / "two" / "a" / "1.jpg").write_bytes(b"other length")
    assert source_of(tmp_path / "two").inventory().digest != digest


def test_small_classes_share_a_part_and_large_ones_have_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BATCH_ROWS", 4)
    for label, count in [("a", 1), ("b", 2), ("c", 6), ("d", 1), ("e", 3)]:
        put(tmp_path, *(f"{label}/{i}.jpg" for i in range(count)))
    (tmp_path / "empty").mkdir()
    source = source_of(tmp_path)
    inventory = source.inventory()
    assert [(part.start, part.end) for part in inventory.parts] == [(0, 3), (3, 4), (4, 7)]
    found = read(source, inventory)
    assert len(found) == len(set(found)) == inventory.num_rows == 13


def test_an_object_store_is_listed_as_a_local_folder_is(tmp_path):
    put(tmp_path, "x.jpg", "b/2.jpg", "a [1]*/1.jpg", "a [1]*/c/3.jpg", "a/.d", ".e/f", "a_[1]_/9")
    for label in ("b", "a [1]*"):
        assert sorted(folder._remote(str(tmp_path), label)) == sorted(
            folder._local(str(tmp_path), label)
        )
    top = {file.path.split("/")[0] for file in folder._remote(str(tmp_path), "")}
    assert top == {"x.jpg", "b", "a [1]*", "a_[1]_"}


@pytest.mark.parametrize("names", [[], ["1.jpg", "2.jpg"]])
def test_a_folder_without_classes_says_what_is_expected(tmp_path, names):
    put(tmp_path, *names)
    with pytest.raises(
        SourceError, match=r"no images\. Expected below it: CLASS/IMAGE. Received: "
    ):
        source_of(tmp_path).inventory()


def test_a_folder_has_no_split_column(tmp_path):
    put(tmp_path, "cat/1.jpg")
    with pytest.raises(SourceError, match="a folder has no split column: use --split or --splits"):
        source_of(tmp_path, split_column="Subset").inventory()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such folder"):
        source_of(tmp_path / "nowhere").inventory()
