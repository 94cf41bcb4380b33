import itertools

import numpy as np

from pipeline.annotations import LabelRules
from pipeline.merging import Chooser, merged, unpacked
from pipeline.recipe import Selection
from pipeline.records import Annotation, BadRow, ImageRow
from pipeline.rows import Batch, packs

CAT, DOG = Annotation("cat"), Annotation("dog")


def test_rows_of_one_id_become_one_image_whatever_their_order():
    found = [
        ImageRow("a", "", (CAT,), "0:1", split="train"),
        ImageRow("a", "a.jpg", (), "1:1", "md5:00", 90),
        ImageRow("a", "", (DOG, CAT), "0:2", split="train"),
        ImageRow("b", "b.jpg", (), "0:3"),
    ]
    for order in itertools.permutations(found):
        _, images = merged(order)
        image = next(image for image in images if image.image_id == "a")
        assert image.uri == "a.jpg"
        assert image.annotations == (CAT, DOG)
        assert (image.checksum, image.rotation, image.num_rows) == ("md5:00", 90, 3)
        assert image.split == "train"
        assert len(images) == 2


def test_images_stand_in_the_order_of_their_hash_and_bad_rows_apart():
    found = [ImageRow(str(index), "", (), "0:1") for index in range(50)]
    bad_rows, images = merged([*found, BadRow("z", "", "0:2"), BadRow("y", "", "0:3")])
    assert [row.text for row in bad_rows] == ["y", "z"]
    assert [image.order_hash for image in images] == sorted(image.order_hash for image in images)


def test_an_empty_pack_stands_for_no_row():
    batch = Batch.of([ImageRow("a", "a", (), "0:1")])
    ((_, pack),) = packs(batch.lines, np.zeros(1, np.int64))
    assert [row.image_id for row in unpacked([b"", pack, b""])] == ["a"]


def chooser(selection, min_labels=0):
    return Chooser(selection, LabelRules(("cat",)), min_labels)


def test_what_is_drawn_is_in_the_drawn_split_alone():
    drawn_end = 1 << 63
    drawn = Selection(drawn_end=drawn_end, is_drawn=True)
    rest = Selection(drawn_end=drawn_end)
    images = merged(
        ImageRow(str(index), "", (CAT,) if index % 3 else (), "0:1") for index in range(300)
    )[1]
    num_drawn = 0
    for image in images:
        is_drawn = image.split_hash < drawn_end and bool(image.annotations)
        assert chooser(drawn).takes(image) == is_drawn
        assert chooser(rest).takes(image) == (not is_drawn)
        num_drawn += is_drawn
    assert 60 < num_drawn < 140


def test_labels_are_counted_inside_and_outside_the_class_list_and_negatives_too():
    said = (CAT, DOG, Annotation("cow", 0.0))
    (image,) = merged([ImageRow("a", "", said, "0:1")])[1]
    assert chooser(Selection(), min_labels=3).has_labels(image)
    assert not chooser(Selection(), min_labels=4).has_labels(image)


def test_to_be_drawn_takes_a_positive_of_the_class_list():
    for said, is_eligible in (((CAT,), True), ((DOG,), False), ((Annotation("cat", 0.0),), False)):
        (image,) = merged([ImageRow("a", "", said, "0:1")])[1]
        assert chooser(Selection()).is_eligible(image) == is_eligible


def test_files_of_the_same_id_are_remembered():
    found = [ImageRow("a", name, (CAT,), "0:1") for name in ("y.jpg", "x.jpg", "x.jpg", "")]
    (image,) = merged(found)[1]
    assert (image.uri, image.other_uris) == ("x.jpg", ("y.jpg",))


def test_several_splits_of_one_image_are_all_named():
    found = [ImageRow("a", "a", (CAT,), "0:1", split=split) for split in ("train", "", "eval")]
    assert merged(found)[1][0].split == "eval,train"
