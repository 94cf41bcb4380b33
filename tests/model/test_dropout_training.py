"""A network with dropout trains, goes on with the noise it would have had, and predicts without."""

import json

import numpy as np
import pytest
import tensorflow as tf

from model import checkpoint, predict, train, zoo
from model import config as config_module
from model.parameter_store import ParameterStore

NETWORK = (
    "network.width=0.1",
    "network.middle_modules=0",
    "network.fully_connected=32",
    "network.dropout=0.5",
    "input.image_size=48",
)
RUN = (
    "--preset=demo",
    *(f"--set={override}" for override in NETWORK),
    "--set=input.batch_size=8",
    "--set=train.steps_per_closure=2",
    "--set=train.log_every=0.1",
)


def _train(shards, run, samples):
    arguments = [*RUN, f"--data={shards}", f"--workdir={run}", f"--set=train.samples={samples}"]
    return train.main(arguments)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A run of 160 images that was then taken on to 320."""
    folder = tmp_path_factory.mktemp("run")
    assert _train(shards, folder, 160) == 0
    assert _train(shards, folder, 320) == 0
    return folder


def test_it_trains_and_resumes(run):
    state = checkpoint.read_state(checkpoint.list_checkpoints(run)[-1].path)
    assert (state["step"], state["samples"]) == (40, 320)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([line["train/loss"] for line in metrics]).all()


def test_its_checkpoint_holds_nothing_of_the_noise(run):
    state = checkpoint.load(checkpoint.list_checkpoints(run)[-1].path)
    without = config_module.load_preset("demo", [*NETWORK, "network.dropout=0"])
    paths = {variable.path for variable in zoo.build(without, 191).variables}
    assert state["parameters"].keys() == paths
    assert state["ema"].keys() == paths


def test_it_predicts_without_noise(run, shards):
    predictor = predict.Predictor(run)
    path = checkpoint.list_checkpoints(run)[-1].path
    predictor.load(path)
    once, again = (
        np.concatenate([batch.logits for batch in predictor.predict(shards, "eval")])
        for _ in range(2)
    )
    np.testing.assert_array_equal(once, again)

    without = zoo.build(config_module.load_preset("demo", [*NETWORK, "network.dropout=0"]), 191)
    values = checkpoint.load(path, "ema")
    for variable in without.weights:
        variable.assign(values[variable.path])
    images = np.random.default_rng(0).uniform(-1, 1, (4, 48, 48, 3)).astype(np.float32)
    np.testing.assert_allclose(predictor._network(images), without(images), atol=1e-5)


# ---- The noise of the store's steps ----


def _pieces(*overrides):
    config = config_module.load_preset("demo", [*NETWORK, "train.seed=3", *overrides])
    network = zoo.build(config, 5)
    return network, ParameterStore(config, network)


def _take_step(network, store, step):
    images = tf.random.stateless_uniform((8, 48, 48, 3), (step, 0), -1.0, 1.0)
    pulled = store.pull()
    with tf.GradientTape() as tape:
        tape.watch(pulled.trainable)
        logits, statistics = network.stateless_call(
            pulled.trainable, pulled.statistics, images, training=True
        )
        loss = tf.reduce_mean(tf.square(logits - 1.0))
    gradients = tape.gradient(loss, pulled.trainable)
    store.push(pulled, gradients, statistics, tf.constant(8, tf.int64), loss)


def test_a_resumed_run_has_the_noise_that_it_would_have_had():
    network, store = _pieces()
    initial = store.export()
    for step in range(4):
        _take_step(network, store, step)
        if step == 1:
            halfway = store.export()
    expected = store.export()["parameters"]

    other_network, other_store = _pieces()  # of another process, and its generators untouched
    other_store.restore(halfway)
    for step in (2, 3):
        _take_step(other_network, other_store, step)
    for path, value in other_store.export()["parameters"].items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)
    assert not np.array_equal(initial["parameters"]["fc1/kernel"], expected["fc1/kernel"])


def test_the_state_of_the_noise_is_the_seed_and_the_number_of_the_first_sample():
    network, store = _pieces()
    for step in range(2):
        _take_step(network, store, step)
    statistics = store.pull().statistics
    assert len(statistics) == len(network.non_trainable_variables)
    stored = {variable.path for variable in network.non_trainable_weights}
    (noise,) = (
        value
        for value, variable in zip(statistics, network.non_trainable_variables, strict=True)
        if variable.path not in stored
    )
    np.testing.assert_array_equal(noise, [3, 16])
