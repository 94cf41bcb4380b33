"""Networks that were saved whole are ranked by their logits, whatever the last layer does."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score
from tiny_run import write_dataset

from eval import evaluate
from model.config import InputConfig
from model.input import evaluation_dataset
from pipeline import metadata

# Keras reads and writes its variables that way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCALE = 60.0  # so large that most sigmoids are 1 in float32, and tie


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "data")
    return folder / "data"


def network(activation):
    """Scaled means of the three colours, and of all: four logits."""
    kernel = SCALE * np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]], np.float32)
    layers = [
        keras.layers.Input((16, 16, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4, activation=activation, name="last"),
    ]
    made = keras.Sequential(layers)
    made.get_layer("last").set_weights([kernel, SCALE * np.ones(4, np.float32)])
    return made


def truth_and_logits(data):
    """Means of the images, by numpy."""
    split = metadata.load_split(data, "eval")
    truth, logits = [], []
    for examples, images in evaluation_dataset(InputConfig(image_size=16), split.shard_paths, 8):
        means = images.numpy().mean(axis=(1, 2))
        logits.append(SCALE * (np.concatenate([means, means.sum(1, keepdims=True)], axis=1) + 1))
        truth += [np.isin(np.arange(4), row[row >= 0]) for row in examples["labels"].numpy()]
    return np.array(truth), np.concatenate(logits)


def report_of(path, data, output, *more):
    arguments = [f"--model={path}", f"--data={data}", f"--output={output}", *more]
    assert evaluate.main(arguments) == 0
    return json.loads((output / "report.json").read_text())


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", None])
def test_a_keras_network_is_ranked_by_its_logits(data, tmp_path, activation):
    made = network(activation)
    made.save(tmp_path / "network.keras")
    report = report_of(tmp_path / "network.keras", data, tmp_path / "out")
    truth, logits = truth_and_logits(data)
    for c in range(3):
        expected = average_precision_score(truth[:, c], logits[:, c])
        assert report["classes"]["average_precision"][c] == pytest.approx(expected, rel=1e-6)
    assert report["source"] == "saved_model"
    assert report["score_space"] == "logits float32"
    assert (report["calibration"] is None) == (activation == "softmax")


def test_a_saved_model_is_ranked_by_what_it_gives(data, tmp_path):
    made = network(None)

    @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3], tf.float32)])
    def of_images(images):
        return {"scores": made(images)}

    tf.saved_model.save(made, str(tmp_path / "saved"), signatures=of_images)
    report = report_of(tmp_path / "saved", data, tmp_path / "out", "--score_space=logits")
    truth, logits = truth_and_logits(data)
    for c in range(3):
        expected = average_precision_score(truth[:, c], logits[:, c])
        assert report["classes"]["average_precision"][c] == pytest.approx(expected, rel=1e-6)
    assert report["score_space"] == "logits float32"


def test_a_saved_model_may_take_jpegs(data, tmp_path):
    class OfBytes(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def score(self, jpegs):
            lengths = tf.cast(tf.strings.length(jpegs), tf.float32)
            return {"scores": tf.tile(lengths[:, None], [1, 4])}

    module = OfBytes()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.score)
    report = report_of(tmp_path / "saved", data, tmp_path / "out")
    assert report["score_space"] == "unknown float32"
    assert report["calibration"] is None


def test_what_is_no_network_or_of_other_classes_is_refused(data, tmp_path, capsys):
    def refusal(path):
        arguments = [f"--model={path}", f"--data={data}", f"--output={tmp_path / 'out'}"]
        assert evaluate.main(arguments) == 2
        return capsys.readouterr().err

    assert "is no saved network" in refusal(tmp_path / "absent.keras")
    (tmp_path / "damaged.keras").write_bytes(b"PK not a zip")
    assert "cannot be loaded" in refusal(tmp_path / "damaged.keras")
    keras.Sequential([keras.layers.Input((16, 16, 3)), keras.layers.GlobalAveragePooling2D()]).save(
        tmp_path / "three.keras"
    )
    assert "scores of shape [30, 3] for 30 images" in refusal(tmp_path / "three.keras")
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "damaged.keras", tmp_path / "folder/saved_model.pb")
    assert "cannot be loaded as a SavedModel" in refusal(tmp_path / "folder")
