"""Xception against the paper's numbers and against keras.applications."""

import keras
import numpy as np
import pytest
import tensorflow as tf

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


def _num_trainable(network):
    return sum(int(np.prod(v.shape)) for v in network.trainable_variables)


def test_it_has_the_papers_number_of_parameters_at_1000_classes():
    assert _num_trainable(xception(1000)) == 22_855_952  # table 3


def test_it_has_36_convolutional_layers_in_its_feature_extractor():
    network = xception(10)
    convolutions = (keras.layers.Conv2D, keras.layers.SeparableConv2D)
    names = [layer.name for layer in network.layers if isinstance(layer, convolutions)]
    residual = [name for name in names if name.startswith("conv2d")]
    assert len(names) - len(residual) == 36  # section 3
    assert len(residual) == 4


@pytest.mark.parametrize("image_size", [299, 150, 96])
def test_its_outputs_equal_those_of_keras_applications_with_weights_copied_both_ways(
    reference, image_size
):
    theirs = keras.applications.Xception(
        weights=None, classifier_activation=None, input_shape=(image_size, image_size, 3)
    )
    ours = xception(1000, image_size)
    ours.set_weights(reference.get_weights())
    theirs.set_weights(ours.get_weights())
    images = np.random.default_rng(1).uniform(-1, 1, (2, image_size, image_size, 3))
    expected = np.asarray(theirs(images, training=False))
    np.testing.assert_allclose(ours(images, training=False), expected, atol=1e-4)
    assert np.std(expected) > 1e-2  # the comparison is not one of zeros
    if image_size == 299:
        np.testing.assert_array_equal(reference(images, training=False), expected)


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


# ---- Variants ----


def test_fully_connected_layers_add_their_parameters():
    head = 2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    network = xception(1000, 96, fully_connected=4096)  # figures 7 and 8
    assert _num_trainable(network) == 22_855_952 - (2048 * 1000 + 1000) + head


def test_without_residual_connections_their_convolutions_are_gone_and_nothing_is_added():
    network = xception(1000, 96, residual=False)  # figure 9
    kernels = 64 * 128 + 128 * 256 + 256 * 728 + 728 * 1024
    assert _num_trainable(network) == 22_855_952 - kernels - 2 * (128 + 256 + 728 + 1024)
    assert not any(isinstance(layer, keras.layers.Add) for layer in network.layers)
    with_residuals = {layer.name for layer in xception(1000, 96).layers}
    assert {layer.name for layer in network.layers} <= with_residuals


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_an_intermediate_activation_is_in_each_of_the_34_separable_convolutions(activation):
    network = xception(1000, 96, intermediate_activation=activation)  # figure 10
    assert _num_trainable(network) == 22_855_952
    activations = [layer for layer in network.layers if layer.name.endswith(f"_{activation}")]
    assert len(activations) == 34


def test_fewer_segments_have_more_parameters_down_to_regular_convolutions():
    def count(segments):
        return _num_trainable(xception(1000, 96, middle_modules=0, channel_segments=segments))

    # Channels that come into the separable convolutions of the entry and of the exit flow.
    channels = [64, 128, 128, 256, 256, 728, 728, 728, 1024, 1536]
    depthwise = _num_trainable(xception(1000, 96, middle_modules=0))
    assert count(2048) == depthwise
    for segments in (1, 8):
        more = sum(9 * c * c // segments - 9 * c for c in channels)
        assert count(segments) == depthwise + more


@pytest.mark.parametrize(("small_stem", "pixels"), [(True, 2), (False, 1)])
def test_a_small_stem_leaves_more_of_a_small_image(small_stem, pixels):
    network = xception(3, 32, width=0.1, middle_modules=0, small_stem=small_stem)
    assert network.get_layer("block14_sepconv2").output.shape[1:3] == (pixels, pixels)
    plain = xception(3, 96, width=0.1, middle_modules=0)
    assert [v.shape for v in network.weights] == [v.shape for v in plain.weights]


@pytest.mark.parametrize(
    "options",
    [
        {"residual": False},
        {"intermediate_activation": "elu"},
        {"channel_segments": 1},
        {"channel_segments": 4},
        {"small_stem": True, "dropout": 0.5, "fully_connected": 16},
    ],
)
def test_every_variant_has_gradients_for_every_parameter(options):
    network = xception(3, 64, width=0.05, middle_modules=1, **options)
    images = tf.random.stateless_uniform((4, 64, 64, 3), (0, 0), -1.0, 1.0)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(images, training=True)))
        return tape.gradient(loss, [v.value for v in network.trainable_variables])

    for variable, gradient in zip(network.trainable_variables, gradients(), strict=True):
        assert np.isfinite(gradient).all(), variable.path
        assert np.abs(gradient).max() > 0, variable.path
