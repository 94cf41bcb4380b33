"""A step of training against the store, with each kind of target."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import config as config_module
from model.parameter_store import ParameterStore
from model.training_step import training_step

TARGETS = {
    "labels": tf.constant([[0, 2], [1, -1]], tf.int64),
    "confidences": tf.constant([[1.0, 0.5], [0.25, 0.0]]),
    "negatives": tf.constant([[1], [-1]], tf.int64),
}


def _network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(x))


def _config(**sections):
    train = {"optimizer": {"name": "sgd", "learning_rate": 1.0, "weight_decay": 0.0}}
    return config_module.from_dict({**train, **sections})


def _bias_after_a_step(config, images, targets):
    network = _network()
    store = ParameterStore(config, network)
    tf.function(training_step, autograph=False)(config, network, store, images, targets)
    assert store.progress()[:2] == (1, 2)
    return store.export()["parameters"]["head/bias"], store.progress().loss_sum


def test_a_step_takes_the_configured_losss_gradient():
    # At black images all logits are the biases, 0: every probability is 1/2. The gradient of a
    # bias is the mean over the two images of w (p - target).
    black = tf.zeros([2, 4, 4, 3])
    bias, loss = _bias_after_a_step(_config(), black, TARGETS)
    np.testing.assert_allclose(bias, [0.0, 0.0, 0.0, -0.5], atol=1e-6)
    assert loss == pytest.approx(4 * np.log(2))

    masked = _config(loss={"unknown_weight": 0.0, "confidence": "weight"})
    bias, loss = _bias_after_a_step(masked, black, TARGETS)
    # Image 1: label 0 (1), label 2 (1/2), not 1. Image 2: label 1 (1/4).
    np.testing.assert_allclose(bias, [0.25, -0.25 + 0.0625, 0.125, 0.0], atol=1e-6)
    assert loss == pytest.approx((1.0 + 0.5 + 1.0 + 0.25) / 2 * np.log(2))


def test_a_step_with_softmax():
    targets = {"labels": tf.constant([[0], [3]], tf.int64)}
    config = _config(loss={"name": "softmax_cross_entropy"})
    bias, loss = _bias_after_a_step(config, tf.zeros([2, 4, 4, 3]), targets)
    np.testing.assert_allclose(bias, [0.25, -0.25, -0.25, 0.25], atol=1e-6)  # target - 1/4
    assert loss == pytest.approx(np.log(4))


def test_a_loss_that_is_not_finite_is_raised_and_nothing_is_pushed():
    network = _network()
    config = _config()
    store = ParameterStore(config, network)
    before = store.export()["parameters"]["head/bias"]
    step = tf.function(training_step, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        step(config, network, store, tf.fill([2, 4, 4, 3], np.nan), TARGETS)
    np.testing.assert_array_equal(store.export()["parameters"]["head/bias"], before)
    assert store.progress().step == 0
