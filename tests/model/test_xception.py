"""Xception against the paper's numbers and against keras.applications."""

import keras
import numpy as np
import pytest

from model.xception import xception


@pytest.fixture(scope="module")
def reference():
    """keras.applications' network without its softmax, statistics and biases made random."""
    network = keras.applications.Xception(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    for variable in network.variables:
        if "moving_variance" in variable.path:
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif "kernel" not in variable.path:
            variable.assign(np.asarray(variable) + random.normal(0, 0.1, variable.shape))
    return network


def test_it_has_the_papers_number_of_parameters_at_1000_classes():
    network = xception(1000)
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == 22_855_952  # table 3


def test_it_has_36_convolutional_layers_in_its_feature_extractor():
    network = xception(10)
    convolutions = (keras.layers.Conv2D, keras.layers.SeparableConv2D)
    names = [layer.name for layer in network.layers if isinstance(layer, convolutions)]
    residual = [name for name in names if name.startswith("conv2d")]
    assert len(names) - len(residual) == 36  # section 3
    assert len(residual) == 4


@pytest.mark.parametrize("image_size", [299, 150, 96])
def test_its_outputs_equal_those_of_keras_applications_with_the_same_weights(reference, image_size):
    network = xception(1000, image_size)
    network.set_weights(reference.get_weights())
    if image_size != 299:
        weights = reference.get_weights()
        reference = keras.applications.Xception(
            weights=None, classifier_activation=None, input_shape=(image_size, image_size, 3)
        )
        reference.set_weights(weights)
    images = np.random.default_rng(1).uniform(-1, 1, (2, image_size, image_size, 3))
    ours, theirs = network(images, training=False), reference(images, training=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.std(theirs) > 1e-2  # the comparison is not one of zeros


def test_layers_have_the_names_of_keras_applications(reference):
    ours = {layer.name for layer in xception(1000).layers}
    named = {layer.name for layer in reference.layers if layer.name.startswith("block")}
    assert named <= ours
    assert len(named) > 100


def test_names_do_not_depend_on_what_was_built_before():
    first = [variable.path for variable in xception(3, 96, width=0.1).variables]
    again = [variable.path for variable in xception(3, 96, width=0.1).variables]
    assert first == again


def test_scores_are_float32_when_it_computes_in_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = xception(3, 96, width=0.1, middle_modules=1)
    finally:
        keras.config.set_dtype_policy("float32")
    logits = network(np.zeros((1, 96, 96, 3), np.float32))
    assert str(logits.dtype) in ("float32", "<dtype: 'float32'>")
    assert network.get_layer("block14_sepconv2").compute_dtype == "bfloat16"
