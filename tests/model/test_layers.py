"""Fused batch normalization against Keras's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.layers import BatchNormalization


def _pair(shape):
    random = np.random.default_rng(0)
    ours, theirs = BatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    for layer in (ours, theirs):
        layer.build(shape)
    weights = [random.uniform(0.5, 1.5, w.shape) for w in theirs.get_weights()]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs, random.normal(2.0, 3.0, shape).astype(np.float32)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_gradients_and_statistics_equal_those_of_keras(training):
    ours, theirs, x = _pair((4, 5, 6, 7))
    results = []
    for layer in (ours, theirs):
        inputs = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
            loss = tf.reduce_sum(outputs * tf.cos(outputs))
        gradients = tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])
        results.append([outputs, *gradients, *layer.get_weights()])
    for mine, keras_own in zip(*results, strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=2e-4, atol=2e-4)


def test_bfloat16_inputs_give_bfloat16_outputs_close_to_those_of_keras():
    ours, theirs, x = _pair((4, 5, 6, 7))
    x = tf.cast(x, tf.bfloat16)
    for layer in (ours, theirs):
        layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    mine, keras_own = ours(x, training=True), theirs(x, training=True)
    assert mine.dtype == tf.bfloat16
    np.testing.assert_allclose(
        tf.cast(mine, tf.float32), tf.cast(keras_own, tf.float32), rtol=0.02, atol=0.02
    )


def test_features_without_space_are_left_to_keras():
    ours, theirs, x = _pair((8, 7))
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=1e-5)
