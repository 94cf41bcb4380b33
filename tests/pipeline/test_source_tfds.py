import io
import json
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from workplace import jpeg

from pipeline import rows
from pipeline.records import Annotation
from pipeline.sources.source import SourceError, SourceOptions
from pipeline.sources.tfds import Tfds

CLASSES = ("/m/0cat", "/m/0dog", "/m/0elk")
SOURCES = ("verification", "crowdsource-verification", "machine", "freeform", "xclick", "activemil")


def prepare(
    data_dir, features, splits, name="photos", version="1.0.0", config=None, supervised_keys=None
):
    """Directory of a dataset that TFDS itself writes."""
    pytest.importorskip("tensorflow")
    import tensorflow_datasets as tfds

    class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        pkg_dir_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised_keys,
            )

        def _split_generators(self, dl_manager):
            return {split: iter(enumerate(examples)) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Photos.name = name
    if config:
        Photos.BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config, version=version)]
    builder = Photos(data_dir=data_dir, config=config)
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def features():
    import tensorflow_datasets as tfds

    return tfds.features


def source(images, **options):
    return Tfds(SourceOptions("tfds", str(images), **options))


def read(images, **options):
    """All rows by their ids, after a trip to a worker."""
    found = source(images, **options)
    parts = found.inventory().parts
    found = pickle.loads(pickle.dumps(found))  # noqa: S301
    decoded = [
        rows.decode(line.decode())
        for part in parts
        for batch in found.batches(part, "unpacked")
        for line in batch.lines.to_pylist()
    ]
    return {row.image_id: row for row in decoded}


def image_bytes(row):
    path, _, place = row.uri.rpartition("#")
    offset, length = map(int, place.split("+"))
    with open(path, "rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def refused(images, **options):
    with pytest.raises(SourceError) as caught:
        source(images, **options).inventory()
    return str(caught.value)


@pytest.fixture(scope="module")
def open_images(tmp_path_factory):
    """Features, names and files as those of open_images_v4/200k."""
    f = features()
    label = f.ClassLabel(names=CLASSES)
    who = f.ClassLabel(names=SOURCES)
    level = f.Sequence({"label": label, "confidence": np.int32, "source": who})
    boxes = dict.fromkeys(("is_occluded", "is_truncated", "is_group_of"), np.int8)
    boxes |= {"label": label, "source": who, "bbox": f.BBoxFeature()}
    said = [
        {"label": "/m/0cat", "confidence": 10, "source": "verification"},
        {"label": "/m/0dog", "confidence": 0, "source": "crowdsource-verification"},
        {"label": "/m/0elk", "confidence": 7, "source": "machine"},
        {"label": "/m/0elk", "confidence": 0, "source": "machine"},
    ]
    box = {"label": "/m/0dog", "source": "xclick", "bbox": f.BBox(0.0, 0.0, 1.0, 1.0)}
    box |= {"is_occluded": 1, "is_truncated": 0, "is_group_of": -1}

    def example(name, seed, objects):
        return {
            "image": jpeg(seed=seed),
            "image/filename": name,
            "objects": objects,
            "objects_trainable": objects[:1],
            "bobjects": [box] * len(objects),
        }

    return prepare(
        tmp_path_factory.mktemp("data"),
        {
            "image": f.Image(),
            "image/filename": f.Text(),
            "objects": level,
            "objects_trainable": level,
            "bobjects": f.Sequence(boxes),
        },
        {
            "train": [example("0a.jpg", 1, said), example("0b.jpg", 2, [])],
            "validation": [example("0c.jpg", 3, said[:1])],
        },
        name="open_images_v4",
        config="200k",
        version="2.0.0",
    )


def test_open_images_v4_gives_three_states_with_confidences_and_sources(open_images):
    found = read(open_images, labels_column="objects/label")
    assert sorted(found) == ["0a.jpg", "0b.jpg", "0c.jpg"]
    row = found["0a.jpg"]
    assert row.annotations == (
        Annotation("/m/0cat", 1.0, "verification"),
        Annotation("/m/0dog", 0.0, "crowdsource-verification"),
        Annotation("/m/0elk", 0.7, "machine"),  # and its other word, a machine's 0, is none
    )
    assert image_bytes(row) == jpeg(seed=1)
    assert found["0b.jpg"].annotations == ()
    assert (row.split, found["0c.jpg"].split) == ("train", "validation")


def test_another_of_its_levels_can_be_chosen_and_one_split(open_images):
    found = read(open_images, labels_column="objects_trainable/label", source_split="validation")
    assert [row.annotations for row in found.values()] == [
        (Annotation("/m/0cat", 1.0, "verification"),)
    ]
    boxes = read(open_images, labels_column="bobjects/label", source_split="validation")
    assert boxes["0c.jpg"].annotations == (Annotation("/m/0dog", 1.0, "xclick"),)


def test_where_several_features_could_be_the_labels_they_are_listed(open_images):
    message = refused(open_images)
    assert "several features are a ClassLabel: " in message
    for name in ("objects", "objects_trainable", "bobjects"):
        assert f"{name}/label (sequence of classLabel)" in message
    assert message.endswith("name the labels with --labels_column")


def test_a_dataset_is_found_by_its_name_as_tfds_finds_it(open_images, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(open_images.parent.parent.parent))
    for version in (":2.0.0", ":2.*.*", ""):
        assert len(read(f"open_images_v4/200k{version}", labels_column="objects/label")) == 3
    message = refused("open_images_v4/300k:2.0.0")
    assert "prepare it with `tfds build open_images_v4/300k:2.0.0`" in message
    for images in ("open_images_v4/200k:1.0.0", "open_images_v4"):
        assert refused(images).endswith(f"Found: {open_images}")


def test_the_newest_version_is_taken_where_none_is_named(tmp_path, monkeypatch):
    f = features()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    parts = {"image": f.Image(), "label": f.ClassLabel(names=CLASSES)}
    for version, label in (("9.0.0", 0), ("10.0.0", 1)):
        train = [{"image": jpeg(), "label": label}]
        prepare(tmp_path, parts, {"train": train}, "versions", version)
    assert read("versions")["versions-train.tfrecord-00000-of-00001:1"].annotations == (
        Annotation("/m/0dog"),
    )


def test_images_and_one_class_as_in_mnist(tmp_path):
    f = features()
    image = np.arange(784, dtype=np.uint8).reshape(28, 28, 1)
    folder = prepare(
        tmp_path,
        {"image": f.Image(shape=(28, 28, 1)), "label": f.ClassLabel(num_classes=10)},
        {"test": [{"image": image, "label": 7}, {"image": image, "label": -1}]},
        name="digits",
        supervised_keys=("image", "label"),
    )
    found = read(folder)
    assert sorted(row.annotations for row in found.values()) == [(), (Annotation("7"),)]
    row = found["digits-test.tfrecord-00000-of-00001:1"]
    decoded = Image.open(io.BytesIO(image_bytes(row)))
    assert decoded.format == "PNG"
    assert np.array_equal(np.asarray(decoded), image[:, :, 0])


def test_among_several_the_dataset_itself_says_what_is_the_label(tmp_path):
    f = features()
    parts = {
        "image": f.Image(),
        "label": f.ClassLabel(names=CLASSES),
        "coarse_label": f.ClassLabel(names=("animal", "plant")),
        "id": f.Text(),
    }
    train = [{"image": jpeg(), "label": 2, "coarse_label": 0, "id": "cifar_1"}]
    keys = ("image", "label")
    folder = prepare(tmp_path, parts, {"train": train}, "chosen", supervised_keys=keys)
    assert read(folder)["cifar_1"].annotations == (Annotation("/m/0elk"),)
    assert read(folder, labels_column="coarse_label")["cifar_1"].annotations == (
        Annotation("animal"),
    )
    folder = prepare(tmp_path, parts, {"train": train}, "not_chosen")
    assert "a ClassLabel: coarse_label (classLabel), label (classLabel):" in refused(folder)


def test_labels_are_sequences_of_classes_nested_ones_too_or_plain_text(tmp_path):
    f = features()
    classes = f.ClassLabel(names=CLASSES)
    folder = prepare(
        tmp_path,
        {
            "photo": f.Image(encoding_format="jpeg"),
            "caption": f.Text(),
            "tags": f.Sequence(f.Text()),
            "groups": f.Sequence({"of": f.Sequence(classes)}),
            "labels": f.Sequence(classes),
            "confidences": f.Sequence(np.float32),
        },
        {
            "train": [
                {
                    "photo": jpeg(),
                    "caption": "a|b",
                    "tags": ["x", "y"],
                    "groups": [{"of": [0, 1]}, {"of": []}, {"of": [2]}],
                    "labels": [2, 0],
                    "confidences": [0.3, 1],
                }
            ]
        },
    )

    def labels(name):
        (row,) = read(folder, labels_column=name).values()
        return [annotation.label for annotation in row.annotations]

    assert labels("groups/of") == list(CLASSES)
    assert labels("tags") == ["x", "y"]
    (row,) = read(folder, labels_column="labels", id_column="caption").values()
    assert row.image_id == "a|b"
    assert row.annotations == (Annotation(CLASSES[2], 0.3), Annotation(CLASSES[0]))


def test_images_that_are_not_encoded_are_refused(tmp_path):
    f = features()
    parts = {
        "image": f.Tensor(shape=(2, 2, 3), dtype=np.float32),
        "depth": f.Image(shape=(None, None, 1), dtype=np.float32),
        "label": f.ClassLabel(names=CLASSES),
    }
    train = [{"image": np.zeros((2, 2, 3), np.float32), "label": 0,
              "depth": np.zeros((2, 2, 1), np.float32)}]  # fmt: skip
    folder = prepare(tmp_path, parts, {"train": train})
    message = refused(folder)
    assert "no feature is an encoded image" in message
    assert "image (float32 tensor)" in message
    message = refused(folder, image_column="image")
    assert "--image_column=image (float32 tensor) is no encoded image" in message


@pytest.fixture
def simple(tmp_path):
    f = features()
    parts = {"image": f.Image(), "label": f.ClassLabel(names=CLASSES), "site": f.Text()}
    train = [{"image": jpeg(seed=seed), "label": seed % 3, "site": "a"} for seed in range(5)]
    return prepare(tmp_path, parts, {"train": train, "test": train[:1]}, "simple")


def test_a_form_of_features_that_old_versions_wrote_is_read(simple):
    expected = read(simple)
    module = "tensorflow_datasets.core.features"
    image = {"shape": [None, None, 3], "dtype": "uint8", "encoding_format": "png"}
    content = {
        "image": {"type": f"{module}.image_feature.Image", "content": image},
        "label": {
            "type": f"{module}.class_label_feature.ClassLabel",
            "content": {"num_classes": 3},
        },
        "site": {"type": f"{module}.text_feature.Text", "content": {}},
    }
    top = {"type": f"{module}.features_dict.FeaturesDict", "content": content}
    (simple / "features.json").write_text(json.dumps(top))
    assert read(simple) == expected


@pytest.mark.parametrize("as_text", [False, True])
def test_the_form_between_the_old_and_the_new_one_is_read(simple, as_text):
    f = features()
    expected = read(simple)
    parts = {"image": f.Image(), "label": f.ClassLabel(names=CLASSES), "site": f.Text()}
    content = f.FeaturesDict(parts).to_json()
    if as_text:
        content["content"] = json.dumps(content["content"])
    (simple / "features.json").write_text(json.dumps(content))
    assert read(simple) == expected


def test_the_split_is_a_feature_where_a_flag_names_one(simple):
    assert {row.split for row in read(simple).values()} == {"train", "test"}
    assert {row.split for row in read(simple, split_column="split").values()} == {"train", "test"}
    assert {row.split for row in read(simple, split_column="site").values()} == {"a"}
    assert "no feature 'place' (--split_column)" in refused(simple, split_column="place")


def test_files_are_a_part_each_and_counted_exactly(simple):
    inventory = source(simple).inventory()
    assert [path.rpartition("/")[2] for path in inventory.files] == [
        "simple-test.tfrecord-00000-of-00001",
        "simple-train.tfrecord-00000-of-00001",
    ]
    assert (inventory.num_rows, inventory.num_images, len(inventory.parts)) == (6, 6, 2)


def test_the_class_list_is_that_of_the_dataset(simple):
    assert source(simple).vocabulary().classes == CLASSES
    assert source(simple, labels_column="site").vocabulary() is None
    (simple / "label.labels.txt").write_text("a\tb\nc\nd\n")
    assert "'a\\tb'" in refused(simple)


def test_the_names_of_the_classes_are_part_of_the_digest(simple):
    digest = source(simple).inventory().digest
    assert source(simple).inventory().digest == digest
    (simple / "label.labels.txt").write_text("a\nb\nc\n")
    assert source(simple).inventory().digest != digest


def change(path, pattern, replacement):
    text, count = re.subn(pattern, replacement, path.read_text())
    assert count
    path.write_text(text)


def test_shards_are_named_by_the_template_of_the_dataset(simple):
    template = r'"filepathTemplate": "{SPLIT}.{SHARD_INDEX}.{FILEFORMAT}"'
    change(simple / "dataset_info.json", '"filepathTemplate": "[^"]*"', template)
    for split in ("train", "test"):
        (simple / f"simple-{split}.tfrecord-00000-of-00001").rename(
            simple / f"{split}.00000.tfrecord"
        )
    assert len(read(simple)) == 6


def test_what_cannot_be_read_says_why_and_what_to_do(simple, tmp_path):
    assert "no split 'eval' (--source_split). Splits: " in refused(simple, source_split="eval")
    assert f"Found: {simple}" in refused(simple.parent)
    assert "neither a directory with dataset_info.json" in refused(tmp_path / "none")
    (simple / "simple-test.tfrecord-00000-of-00001").unlink()
    assert "1 of 1 files of split 'test' are gone" in refused(simple)
    info = simple / "dataset_info.json"
    change(info, '"shardLengths": \\[[^]]*\\]', '"shardLengths": [[]]')
    assert "is not as TFDS writes it" in refused(simple)
    change(info, '"fileFormat": "tfrecord"', '"fileFormat": "array_record"')
    assert f"tfds convert_format --dataset_version_dir={simple} " in refused(simple)
    (simple / "features.json").write_text("[]")
    assert "features.json is missing or damaged" in refused(simple)
    (simple / "classes.tsv").write_text("class\n")
    (simple / "features.json").write_text("{}")
    assert "read it with --source=tfrecord" in refused(simple)


@pytest.mark.parametrize("content", ["{}", '{"pythonClassName": 3}', '{"pythonClassName": "Image"}',
                                     '{"type": "a.FeaturesDict", "content": [1]}'])  # fmt: skip
def test_features_that_tfds_did_not_write_are_refused(simple, content):
    (simple / "features.json").write_text(content)
    assert "features.json is not as TFDS writes it" in refused(simple)


def test_neither_tensorflow_nor_tfds_is_imported(simple):
    code = (
        "import sys; from pipeline.sources.tfds import Tfds;"
        "from pipeline.sources.source import SourceOptions;"
        f"source = Tfds(SourceOptions('tfds', {str(simple)!r}));"
        "print(sum(len(batch.keys) for part in source.inventory().parts"
        " for batch in source.batches(part, 'unpacked')));"
        "sys.exit(bool({'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr
