"""Splits by a hash, by a column, drawn; and class lists that are built: through the command."""

import io
import json
import random

import pytest

from pipeline import labels, metadata, schema, tfrecord


def examples(workplace, split):
    found = []
    for shard in workplace.shards(split).values():
        found += map(schema.decode, tfrecord.read(io.BytesIO(shard)))
    return {example.image_id: example for example in found}


@pytest.fixture
def images(workplace):
    """60 images: 20 of a cat and an animal, 20 of a dog and an animal, 20 of a plant."""
    workplace.rows = workplace.add_images(60)
    workplace.write_labels(workplace.rows)
    return workplace


def test_shares_part_the_images_whatever_the_order_of_the_rows(images):
    flags = ("--splits=train=0.7,eval=0.3",)
    assert images.run(*flags, split=None) == 0
    train, evaluation = examples(images, "train"), examples(images, "eval")
    assert len(train) + len(evaluation) == 60
    assert not set(train) & set(evaluation)
    assert 8 < len(evaluation) < 30
    random.Random(0).shuffle(images.rows)
    images.write_labels(images.rows)
    images.output = images.root / "again"
    assert images.run(*flags, split=None) == 0
    assert set(examples(images, "eval")) == set(evaluation)


def test_a_column_names_the_splits(images, capsys):
    names = ["train", "validation", "test"]
    rows = [f"{row},{names[index % 3]}" for index, row in enumerate(images.rows)]
    images.write_labels([*rows, "1,2"], header="image_path,labels,subset")
    assert images.run("--split_column=subset", "--max_failure_rate=0.1", split=None) == 0
    for offset, name in enumerate(names):
        assert set(examples(images, name)) == {f"{n}.jpg" for n in range(offset, 60, 3)}
    assert metadata.completed_splits(images.output) == ["test", "train", "validation"]
    letters = "".join(images.dead_letters(name) for name in names)
    assert letters.count("bad_row") == 1


def test_all_rows_of_an_image_follow_it_into_its_split(images):
    rows = []
    for index, row in enumerate(images.rows):
        name, labels = row.split(",")
        first, *rest = labels.split("|")
        rows += [f"{name},{first},{'eval' if index % 4 == 0 else 'train'}"]
        rows += [f"{name},{label}," for label in rest]  # these name no split
    rows.append("0.jpg,plant,train")  # which is in eval
    images.write_labels(rows, header="image_path,labels,subset")
    flags = ("--split_column=subset", "--long_form", "--max_failure_rate=0.1")
    assert images.run(*flags, split=None) == 0
    evaluation, train = examples(images, "eval"), examples(images, "train")
    assert set(evaluation) == {f"{index}.jpg" for index in range(4, 60, 4)}
    assert set(train) == {f"{index}.jpg" for index in range(60) if index % 4}
    assert train["1.jpg"].labels == (0, 2)  # dog|animal
    assert "several_splits" in images.dead_letters("eval")


def test_a_drawn_split_has_no_other_of_its_name(images, capsys):
    rows = [f"{row},{'train' if index else 'fasteval'}" for index, row in enumerate(images.rows)]
    images.write_labels(rows, header="image_path,labels,subset")
    assert images.run("--split_column=subset", "--fasteval=3", split=None) == 2
    assert "a split 'fasteval' of its own" in capsys.readouterr().err


def test_only_images_of_the_class_list_are_drawn(images):
    images.classes.write_text("class\nplant\n")
    assert images.run("--fasteval=15", split=None) == 0
    assert all(example.labels for example in examples(images, "fasteval").values())


def test_another_class_list_of_the_same_name_draws_anew(images):
    for name, class_ids in (("plant", (0,)), ("cat", (0,))):
        images.classes.write_text(f"class\n{name}\n")
        flags = ("--fasteval=15", "--overwrite")
        assert images.run(*flags, split=None) == 0
        found = examples(images, "fasteval").values()
        assert all(example.labels == class_ids for example in found)


def test_drawn_images_that_are_lost_are_said(images, capsys):
    for index in range(0, 60, 2):
        (images.images / f"{index}.jpg").unlink()
    assert images.run("--fasteval=60", "--max_failure_rate=1", split=None) == 0
    assert "warning: 60 images were drawn, and 30 are written" in capsys.readouterr().out


def test_images_that_are_left_out_do_not_count_for_the_class_list(images):
    images.write_labels([f"{n}.jpg,{'plant' if n < 40 else 'cat|animal'}" for n in range(60)])
    assert images.run("--min_labels=2", "--max_classes=1", without=["classes"]) == 0
    assert metadata.load_vocabulary(images.output).classes == ("animal",)


def test_an_evaluation_split_alone_builds_its_class_list(images):
    assert images.run(split="eval", without=["classes"]) == 0
    assert len(metadata.load_vocabulary(images.output)) == 4


def test_what_kept_a_class_list_from_being_built_is_said(images, capsys):
    images.write_labels(["0.jpg,cat,7"], header="image_path,labels,confidence")
    assert images.run(without=["classes"]) == 2
    error = capsys.readouterr().err
    assert "no positive label" in error
    assert f"1 rows that cannot be read, as {images.labels}:2: " in error


def test_the_number_of_shards_does_not_depend_on_how_rows_are_filed(images):
    header = "image_path,labels"
    rows = [f"{row.split(',')[0]},{label}" for row in images.rows
            for label in row.split(",")[1].split("|")]  # fmt: skip
    images.write_labels(rows, header)
    assert images.run("--long_form") == 0
    whole = images.shards()
    images.output = images.root / "parts"
    for part in range(3):
        text = "\n".join([header, *rows[part::3]]) + "\n"
        (images.root / f"part-{part}.csv").write_text(text)
    assert images.run("--long_form", f"--labels={images.root}/part-*.csv") == 0
    assert images.shards() == whole


def test_rows_without_a_split_are_refused(images, capsys):
    rows = [f"{row},{'train' if index else ''}" for index, row in enumerate(images.rows)]
    images.write_labels(rows, header="image_path,labels,subset")
    assert images.run("--split_column=subset", split=None) == 2
    assert "--split_column=subset: 1 images have no split there" in capsys.readouterr().err


def test_a_column_with_a_name_that_tfds_cannot_have_is_refused(images, capsys):
    images.write_labels([f"{row},a b" for row in images.rows], header="image_path,labels,subset")
    assert images.run("--split_column=subset", split=None) == 2
    assert "must be a name of letters, digits and _. Received: 'a b'" in capsys.readouterr().err


def test_an_evaluation_set_is_drawn_by_hash_and_training_has_the_rest(images, capsys):
    images.write_labels([*images.rows, *(f"{name}.jpg," for name in "xyz")])
    for name in "xyz":
        (images.images / f"{name}.jpg").write_bytes((images.images / "0.jpg").read_bytes())
    flags = ("--fasteval=12", "--deduplicate=off")
    assert images.run(*flags) == 0
    drawn, rest = examples(images, "fasteval"), examples(images, "train")
    assert len(drawn) == 12
    assert all(example.labels for example in drawn.values())
    assert len(rest) == 51
    assert not set(drawn) & set(rest)
    completed = json.loads((images.output / "fasteval.completed.json").read_text())
    assert completed["labels_per_image"] == pytest.approx(
        sum(len(example.labels) for example in drawn.values()) / 12
    )
    assert completed["num_classes_with_examples"] <= 4
    assert "split 'fasteval' is complete" in capsys.readouterr().out
    # The same command again does nothing; the drawn set alone is the same set.
    assert images.run(*flags) == 0
    images.output = images.root / "alone"
    assert images.run(*flags, split=None) == 0
    assert set(examples(images, "fasteval")) == set(drawn)
    assert metadata.completed_splits(images.output) == ["fasteval"]


def test_more_than_there_is_cannot_be_drawn(images, capsys):
    assert images.run("--fasteval=61") == 2
    assert "--fasteval=61: only 60 of 60 images have a positive label" in capsys.readouterr().err


def test_a_class_list_is_built_from_training_by_frequency(images):
    (images.root / "names.csv").write_text("class,name\ncat,The cat\nanimal,Beast\n")
    flags = ("--max_classes=3", f"--class_names={images.root / 'names.csv'}")
    assert images.run(*flags, without=["classes"]) == 0
    found = metadata.load_vocabulary(images.output)
    assert found.classes == ("animal", "cat", "dog")  # 40, 20, 20; and plant, 20, comes after
    assert found.names == ("Beast", "The cat", "dog")
    counts = labels.read_class_counts(images.output / "train.class_counts.tsv", found)
    assert counts.tolist() == [40, 20, 20]
    completed = json.loads((images.output / "train.completed.json").read_text())
    assert completed["unknown_labels"] == {"plant": 20}


def test_a_minimum_count_builds_a_class_list_exactly(images):
    assert images.run("--min_class_count=21", without=["classes"]) == 0
    assert metadata.load_vocabulary(images.output).classes == ("animal",)


def test_images_drawn_for_evaluation_do_not_count_for_the_class_list(images):
    assert images.run("--fasteval=30", "--min_class_count=1", without=["classes"]) == 0
    vocabulary = metadata.load_vocabulary(images.output)
    counts = [0] * len(vocabulary)
    for example in examples(images, "train").values():
        for class_id in example.labels:
            counts[class_id] += 1
    assert counts == sorted(counts, reverse=True)  # the order of the list is that of training
    assert min(counts) >= 1


def test_without_a_class_list_all_labels_are_classes_and_later_splits_keep_to_them(images):
    assert images.run(without=["classes"]) == 0
    first = metadata.load_vocabulary(images.output)
    assert first.classes == ("animal", "cat", "dog", "plant")
    images.write_labels(["0.jpg,dog|unicorn", "1.jpg,dog"])
    assert images.run(split="eval", without=["classes"]) == 0
    assert metadata.load_vocabulary(images.output) == first
    assert metadata.load_split(images.output, "eval").class_counts.tolist() == [0, 0, 2, 0]


def test_a_class_list_that_nothing_reaches_is_refused(images, capsys):
    assert images.run("--min_class_count=1000", without=["classes"]) == 2
    assert "40" in capsys.readouterr().err  # the most frequent class has as many


def test_the_hierarchy_closes_labels_before_they_are_counted(images):
    (images.root / "tree.csv").write_text("child,parent\ncat,pet\ndog,pet\npet,animal\n")
    flags = (f"--hierarchy={images.root / 'tree.csv'}",)
    assert images.run(*flags, without=["classes"]) == 0
    vocabulary = metadata.load_vocabulary(images.output)
    assert vocabulary.classes == ("animal", "pet", "cat", "dog", "plant")
    found = examples(images, "train")["0.jpg"]
    assert found.labels == (0, 1, 2)
    assert found.label_sources == ("", "hierarchy", "")


def test_the_hierarchy_of_a_split_can_be_read_from_the_dataset_until_it_is_overwritten(images):
    tree = images.root / "tree.csv"
    tree.write_text('parent,child\npet,cat\nanimal,pet\n"wild, or not",cat\n')
    assert images.run(f"--hierarchy={tree}") == 0
    found = metadata.load_hierarchy(images.output, "train")
    assert found.parents == {"cat": ("pet", "wild, or not"), "pet": ("animal",)}
    (images.output / "train.hierarchy.csv").unlink()
    assert images.run(f"--hierarchy={tree}") == 0  # writes what is gone, as it does for counts
    assert metadata.load_hierarchy(images.output, "train") == found
    assert images.run("--overwrite") == 0
    assert metadata.load_hierarchy(images.output, "train") is None
