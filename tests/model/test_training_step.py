"""A step of training against the store, with each kind of target."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import config as config_module
from model import layers
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
    with pytest.raises(tf.errors.InvalidArgumentError, match="training loss"):
        step(config, network, store, tf.fill([2, 4, 4, 3], np.nan), TARGETS)
    np.testing.assert_array_equal(store.export()["parameters"]["head/bias"], before)
    assert store.progress().step == 0


def _linear(units=4):
    """A network without batch normalization, with dropout."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    x = layers.Dropout(0.5, name="dropout")(keras.layers.Dense(8, name="hidden")(x))
    return keras.Model(inputs, keras.layers.Dense(units, name="head")(x))


def _batch(size):
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(size, 4, 4, 3)).astype(np.float32))
    return images, {"labels": tf.constant(random.integers(0, 4, (size, 2)))}


def _after_a_step(config, network, images, targets):
    store = ParameterStore(config, network)
    tf.function(training_step, autograph=False)(config, network, store, images, targets)
    return store.export()["parameters"], store.progress()


def test_micro_batches_take_the_step_of_the_whole_batch_with_the_noise_of_the_whole():
    images, targets = _batch(6)
    whole, one = _after_a_step(_config(input={"batch_size": 6}), _linear(), images, targets)
    for num_parts in (2, 3):
        config = _config(input={"batch_size": 6}, train={"micro_batches": num_parts})
        parts, several = _after_a_step(config, _linear(), images, targets)
        for path, value in whole.items():
            np.testing.assert_allclose(parts[path], value, rtol=1e-5, atol=1e-6)
        assert several[:2] == one[:2] == (1, 6)
        assert several.loss_sum == pytest.approx(one.loss_sum)


def test_batch_normalization_moves_to_the_mean_of_its_micro_batches_statistics():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(momentum=0.75, name="bn")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, keras.layers.Dense(4, name="head")(x))
    # Two parts, of values 1 and 3: no variance in either, and means 1 and 3.
    images = tf.concat([tf.fill([2, 4, 4, 3], 1.0), tf.fill([2, 4, 4, 3], 3.0)], axis=0)
    config = _config(
        input={"batch_size": 4},
        train={"micro_batches": 2},
        network={"batch_norm_momentum": 0.75},
    )
    after, _ = _after_a_step(config, network, images, {"labels": tf.zeros([4, 1], tf.int64)})
    np.testing.assert_allclose(after["bn/moving_mean"], np.full(3, 0.25 * 2.0), rtol=1e-5)
    np.testing.assert_allclose(after["bn/moving_variance"], np.full(3, 0.75), rtol=1e-5)


def test_gradients_above_the_norm_are_all_scaled_by_one_factor():
    images, targets = _batch(4)
    before = {variable.path: variable.numpy() for variable in _linear().trainable_variables}

    def change(max_norm):
        optimizer = {"name": "sgd", "learning_rate": 1.0, "weight_decay": 0.0}
        config = _config(optimizer={**optimizer, "max_gradient_norm": max_norm})
        after, _ = _after_a_step(config, _linear(), images, targets)
        return {path: after[path] - value for path, value in before.items()}

    free = change(0.0)  # the learning rate is 1: a step is the gradient
    norm = float(np.sqrt(sum(np.sum(np.square(value)) for value in free.values())))
    clipped, untouched = change(norm / 4), change(norm * 2)
    for path, value in free.items():
        np.testing.assert_allclose(clipped[path], value / 4, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(untouched[path], value, rtol=1e-6, atol=1e-7)


@tf.custom_gradient
def _spoil(x):
    """Passes on, and back an infinity."""
    return tf.identity(x), lambda upstream: upstream / 0.0


class Spoiler(keras.layers.Layer):
    def call(self, x):
        return _spoil(x)


def test_a_gradient_that_is_not_finite_is_named_and_nothing_is_pushed():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    for name in ("first", "second"):
        x = keras.layers.Dense(4, name=name)(x)
    outputs = keras.layers.Dense(4, name="head")(Spoiler()(x))
    network = keras.Model(inputs, outputs)
    config = _config()
    store = ParameterStore(config, network)
    before = store.export()["parameters"]
    step = tf.function(training_step, autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        step(config, network, store, *_batch(2))
    assert "gradient of second/bias" in str(error.value)  # nearest to where it began
    assert "[3] [others)]" in str(error.value)  # second/kernel, first/kernel and first/bias
    after = store.export()["parameters"]
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)
    assert store.progress().step == 0


def test_a_batch_statistic_that_overflows_is_named():
    inputs = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization(name="bn")(inputs)
    network = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    config = _config()
    store = ParameterStore(config, network)
    images = tf.concat([tf.fill([1, 4, 4, 3], 1e25), tf.fill([1, 4, 4, 3], -1e25)], axis=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="batch's bn/moving_variance"):
        # Normalized by an infinite variance, the images are zeros: the loss is finite.
        training_step(config, network, store, images, {"labels": tf.zeros([2, 1], tf.int64)})
