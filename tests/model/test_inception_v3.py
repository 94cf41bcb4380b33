"""Inception V3 against keras.applications."""

import keras
import numpy as np
import pytest

from model.inception_v3 import inception_v3


def _reference(image_size):
    """keras.applications' network without its softmax."""
    return keras.applications.InceptionV3(
        weights=None, classifier_activation=None, input_shape=(image_size, image_size, 3)
    )


@pytest.fixture(scope="module")
def weights():
    """Weights of keras.applications' network, its statistics and biases made random."""
    network = _reference(299)
    random = np.random.default_rng(0)
    for variable in network.weights:
        if "moving_variance" in variable.path:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif "kernel" not in variable.path:
            variable.assign(np.asarray(variable) + random.normal(0, 0.1, variable.shape))
    return network.get_weights()


def _num_trainable(network):
    return sum(int(np.prod(v.shape)) for v in network.trainable_variables)


def test_it_has_the_number_of_parameters_of_keras_applications_at_1000_classes():
    assert _num_trainable(inception_v3(1000)) == 23_817_352


@pytest.mark.parametrize("image_size", [299, 150, 75])
def test_its_outputs_equal_those_of_keras_applications_with_weights_copied_both_ways(
    weights, image_size
):
    ours, theirs = inception_v3(1000, image_size), _reference(image_size)
    theirs.set_weights(weights)
    ours.set_weights(theirs.get_weights())
    images = np.random.default_rng(1).uniform(-1, 1, (2, image_size, image_size, 3))
    expected = np.asarray(theirs(images, training=False))
    np.testing.assert_allclose(ours(images, training=False), expected, atol=1e-4)
    assert np.std(expected) > 1e-2  # the comparison is not one of zeros

    for variable in theirs.weights:
        variable.assign(np.zeros(variable.shape))
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(theirs(images, training=False), expected)


def test_layers_have_the_names_and_the_order_of_keras_applications():
    keras.backend.clear_session()  # the counters of the names that Keras makes up
    theirs = [layer.name for layer in _reference(75).layers]
    ours = [layer.name for layer in inception_v3(1000, 75).layers]
    assert ours[0] == "images"
    assert ours[1:-1] == theirs[1:]
    assert ours[-1] == "logits"


def test_names_do_not_depend_on_what_was_built_before():
    first, again = ([v.path for v in inception_v3(3, 75, width=0.1).weights] for _ in range(2))
    assert first == again


def test_fully_connected_layers_add_their_parameters():
    head = 2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    network = inception_v3(1000, 75, fully_connected=4096)  # figures 7 and 8
    assert _num_trainable(network) == 23_817_352 - (2048 * 1000 + 1000) + head


def test_a_small_stem_takes_images_down_to_31_pixels():
    network = inception_v3(3, 31, width=0.1, small_stem=True)
    assert network.get_layer("mixed10").output.shape[1:3] == (1, 1)
    with pytest.raises(ValueError, match="31 pixels or more"):
        inception_v3(3, 30, width=0.1, small_stem=True)
    with pytest.raises(ValueError, match="75 pixels or more"):
        inception_v3(3, 74, width=0.1)


def test_the_number_of_parameters_does_not_depend_on_the_stem():
    assert _num_trainable(inception_v3(1000, 64, small_stem=True)) == 23_817_352
