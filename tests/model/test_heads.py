"""The classifier and the biases that it starts from."""

import keras
import numpy as np
import pytest

from model.heads import classifier, prior_bias


def _network(**options):
    features = keras.Input((6,))
    return keras.Model(features, classifier(features, 4, **options))


FEATURES = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def test_it_is_a_linear_map_to_logits():
    network = _network(bias=np.array([1.0, 2.0, 3.0, 4.0], np.float32))
    kernel, bias = network.get_weights()
    np.testing.assert_array_equal(bias, [1, 2, 3, 4])
    np.testing.assert_allclose(network(FEATURES), FEATURES @ kernel + bias, atol=1e-6)


def test_fully_connected_layers_come_before_it_each_with_a_relu():
    network = _network(fully_connected=5)
    w1, b1, w2, b2, w3, b3 = network.get_weights()
    assert w1.shape == (6, 5)
    assert w2.shape == (5, 5)
    x = np.maximum(FEATURES @ w1 + b1, 0)
    x = np.maximum(x @ w2 + b2, 0)
    np.testing.assert_allclose(network(FEATURES), x @ w3 + b3, atol=1e-6)


def test_dropout_is_the_last_thing_before_the_logistic_regression():
    network = _network(fully_connected=5, dropout=0.5)
    names = [layer.name for layer in network.layers]
    assert names[-3:] == ["dropout", "predictions", "logits"]
    np.testing.assert_allclose(network(FEATURES, training=False), network(FEATURES))
    assert not np.allclose(network(FEATURES, training=True), network(FEATURES))
    assert len(network.weights) == len(_network(fully_connected=5).weights)


def test_sigmoids_start_at_the_frequency_of_their_class():
    bias = prior_bias([0, 9, 49], num_examples=99)  # (n + 1/2) / 100
    frequencies = 1 / (1 + np.exp(-bias.astype(np.float64)))
    np.testing.assert_allclose(frequencies, [0.005, 0.095, 0.495], rtol=1e-5)


def test_a_softmax_starts_at_the_frequencies_of_the_classes():
    bias = prior_bias([0, 9, 49], num_examples=58, softmax=True)  # n + 1/2: 0.5, 9.5, 49.5
    expected = np.array([0.5, 9.5, 49.5]) / 59.5
    np.testing.assert_allclose(keras.ops.softmax(bias), expected, rtol=1e-5)


@pytest.mark.parametrize("softmax", [False, True])
def test_biases_are_finite_for_classes_that_every_image_has_or_none(softmax):
    bias = prior_bias([0, 10], num_examples=10, softmax=softmax)
    assert bias.dtype == np.float32
    assert np.isfinite(bias).all()
