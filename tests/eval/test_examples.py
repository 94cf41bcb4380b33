"""Which images become examples."""

import base64
import json

import numpy as np

from eval.examples import EXAMPLES_A_GROUP, Gallery

CLASSES = tuple("abcdefg")


def gallery_of(order, batch_size):
    """40 images; image i has an average precision of i / 40, and image 39 has no labels."""
    return offered(order, batch_size).to_json(CLASSES)


def offered(order, batch_size):
    logits = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32)
    gallery = Gallery()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        gallery.offer(
            [f"image-{row}" for row in rows],
            [b"jpeg of %d" % row for row in rows],
            [np.array([row % 7] if row < 39 else []) for row in rows],
            logits[rows],
            np.array([row / 40 if row < 39 else np.nan for row in rows]),
        )
    return gallery


def test_the_choice_depends_on_neither_order_nor_batches():
    straight = gallery_of(np.arange(40), 40)
    assert gallery_of(np.arange(40)[::-1], 3) == straight
    assert gallery_of(np.random.default_rng(1).permutation(40), 16) == straight


def test_parts_that_travelled_as_text_merge_into_the_whole():
    merged = Gallery()
    for rows in (np.arange(25, 40), np.arange(10), np.arange(10, 25)):
        state = json.dumps(offered(rows, 40).to_state())
        merged.merge(Gallery.from_state(json.loads(state)))
    # Logits are drawn by row number, so those of a part are those of the whole.
    assert merged.to_json(CLASSES) == gallery_of(np.arange(40), 40)


def test_surely_wrong_are_those_with_the_highest_score_of_a_class_that_is_no_label():
    gallery = Gallery()
    logits = np.array([[9, 1, 0, 0, 0, 0, 0], [0, 2, 8, 0, 0, 0, 0], [5] * 7], np.float32)
    labels = [np.array([0]), np.array([1]), np.arange(7)]  # the last has every class
    gallery.offer(["right", "wrong", "all"], [b"", b"", b""], labels, logits, np.ones(3))
    assert [example["image_id"] for example in gallery.to_json(CLASSES)["wrong"]] == [
        "wrong",
        "right",
    ]


def test_best_and_worst_are_those_with_the_highest_and_lowest_average_precision():
    groups = gallery_of(np.arange(40), 5)
    ids = {name: [example["image_id"] for example in group] for name, group in groups.items()}
    assert ids["best"] == [f"image-{38 - n}" for n in range(EXAMPLES_A_GROUP)]
    assert ids["worst"] == [f"image-{n}" for n in range(EXAMPLES_A_GROUP)]
    assert len(set(ids["random"])) == EXAMPLES_A_GROUP


def test_an_example_carries_its_image_labels_and_predictions():
    gallery = Gallery()
    logits = np.array([[1, 5, -np.inf, 5, 0, 2, -1]], np.float32)
    gallery.offer(["x"], [b"jpeg"], [np.array([3, 4])], logits, np.array([np.nan]))
    groups = gallery.to_json(CLASSES)
    assert groups["best"] == groups["worst"] == []  # nothing to rank without labels
    (example,) = groups["random"]
    assert base64.b64decode(example["jpeg"]) == b"jpeg"
    assert example["labels"] == ["d", "e"]
    assert example["average_precision"] is None
    assert example["predictions"] == [
        {"class": "b", "logit": 5.0, "correct": False},
        {"class": "d", "logit": 5.0, "correct": True},
        {"class": "f", "logit": 2.0, "correct": False},
        {"class": "a", "logit": 1.0, "correct": False},
        {"class": "e", "logit": 0.0, "correct": True},
    ]
