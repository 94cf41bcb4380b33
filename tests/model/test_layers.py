"""Fused batch normalization against Keras's own; dropout; separable convolutions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.layers import (
    BatchNormalization,
    Dropout,
    conv_bn,
    num_segments,
    separable_conv_bn,
)


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


@pytest.mark.parametrize("training", [True, False])
def test_without_gammas_or_betas_it_equals_that_of_keras_too(training):
    x = np.random.default_rng(0).normal(2.0, 3.0, (4, 5, 6, 7)).astype(np.float32)
    options = {"scale": False, "center": False, "momentum": 0.9}
    ours, theirs = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    np.testing.assert_allclose(ours(x, training=training), theirs(x, training=training), atol=1e-5)
    for mine, keras_own in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-5)


@pytest.mark.parametrize("channels", [8, 16])
@pytest.mark.parametrize("size", [63, 64])
def test_a_strided_pointwise_convolution_of_few_channels_has_right_gradients(size, channels):
    images = keras.Input((size, size, channels))
    network = keras.Model(images, conv_bn(images, 12, 1, strides=2, padding="same", name="conv"))
    conv = keras.Model(images, network.get_layer("conv_bn").input)
    x = np.random.default_rng(0).normal(size=(2, size, size, channels)).astype(np.float32)
    kernel = np.asarray(conv.weights[0])[0, 0]

    @tf.function  # an eager call takes another kernel
    def gradients(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.square(conv(inputs))) / 2
        return tape.gradient(loss, [inputs, conv.weights[0].value])

    by_input, by_kernel = gradients(tf.constant(x))
    seen = x[:, ::2, ::2]
    expected = np.zeros_like(x)
    expected[:, ::2, ::2] = seen @ kernel @ kernel.T
    np.testing.assert_allclose(by_input, expected, atol=1e-4)
    expected = np.einsum("bhwc,bhwd->cd", seen, seen @ kernel)
    np.testing.assert_allclose(np.asarray(by_kernel)[0, 0], expected, rtol=1e-3, atol=1e-2)


# ---- Dropout ----


def _noise(first, batch_size, size=512, rate=0.5, seed=0):
    """Which inputs are kept, of the samples `first`, `first` + 1, ..."""
    layer = Dropout(rate)
    layer.seed_generator.state.assign([seed, first])
    outputs = np.asarray(layer(np.ones((batch_size, size), np.float32), training=True))
    np.testing.assert_allclose(np.unique(outputs), [0.0, 1.0 / (1.0 - rate)])
    return outputs > 0


def _scramble(x):
    """C. Wellons's lowbias32 in Python's integers."""
    x = (x ^ (x >> 16)) * 0x7FEB352D % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return x ^ (x >> 16)


def test_dropout_is_the_published_hash_of_seed_sample_and_feature():
    for sample in (0, 5, 2**32 - 1):
        key = _scramble(_scramble(7) ^ sample)
        expected = [_scramble(key ^ _scramble(feature)) >= 2**30 for feature in range(512)]
        np.testing.assert_array_equal(_noise(sample, 1, rate=0.25, seed=7)[0], expected)


def test_dropout_drops_its_share_of_every_sample_and_feature_and_of_pairs_independently():
    kept = _noise(1_000_000_000, 1024, rate=0.25).astype(np.float64)
    assert kept.mean() == pytest.approx(0.75, abs=0.003)  # 5 standard errors of 524,288 draws
    spread = np.sqrt(0.75 * 0.25)
    for axis in (0, 1):  # over samples and over features: standard errors of 0.014 and 0.019
        assert np.abs(kept.mean(axis) - 0.75).max() < 5 * spread / np.sqrt(kept.shape[axis])
    for values in (kept, kept.T):  # all pairs of features, then of samples
        correlations = np.corrcoef(values, rowvar=False)
        np.fill_diagonal(correlations, 0.0)
        assert np.abs(correlations).max() < 6 / np.sqrt(len(values))


def test_a_batch_in_parts_has_the_noise_of_the_whole():
    whole = _noise(96, 32)
    np.testing.assert_array_equal(whole[:20], _noise(96, 20))
    np.testing.assert_array_equal(whole[20:], _noise(116, 12))


def test_other_seeds_and_other_samples_have_other_noise():
    masks = [_noise(first, 32, seed=seed) for seed in (0, 1) for first in (0, 32)]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert np.mean(one == other) == pytest.approx(0.5, abs=0.02)


def test_called_by_itself_dropout_goes_on_to_the_next_samples():
    layer, ones = Dropout(0.5), np.ones((8, 64), np.float32)
    first, second = (np.asarray(layer(ones, training=True)) > 0 for _ in range(2))
    np.testing.assert_array_equal(np.concatenate([first, second]), _noise(0, 16, size=64))


def test_dropout_at_inference_and_at_rate_zero_changes_nothing():
    ones = np.ones((8, 64), np.float32)
    np.testing.assert_array_equal(Dropout(0.5)(ones, training=False), ones)
    np.testing.assert_array_equal(Dropout(0.0)(ones, training=True), ones)
    assert Dropout(0.5).weights == []


# ---- The spectrum between regular and depthwise separable convolutions ----


@pytest.mark.parametrize(
    ("channels", "wanted", "expected"),
    [(728, 1, 1), (728, 4, 4), (728, 16, 14), (728, 727, 364), (728, 1000, 728), (64, 0, 64)],
)
def test_channels_are_cut_into_the_largest_divisor_up_to_what_is_wanted(channels, wanted, expected):
    assert num_segments(channels, wanted) == expected


def _unit(channels, filters, segments, activation="none"):
    """A separable convolution without its batch normalization, and its kernels by path."""
    keras.utils.set_random_seed(0)
    images = keras.Input((5, 7, channels))
    outputs = separable_conv_bn(
        images, filters, segments=segments, intermediate_activation=activation, name="unit"
    )
    network = keras.Model(images, outputs)
    before = keras.Model(images, network.get_layer("unit_bn").input)
    return before, {v.path: np.asarray(v) for v in before.variables}


def _dense_kernel(kernel, channels):
    """The spatial kernel as that of a regular convolution: zeros between the segments."""
    dense = np.zeros((3, 3, channels, channels), np.float32)
    if kernel.shape[-2:] == (channels, 1):  # depthwise
        dense[:, :, range(channels), range(channels)] = kernel[..., 0]
        return dense
    size = kernel.shape[2]
    for start in range(0, channels, size):
        segment = slice(start, start + size)
        dense[:, :, segment, segment] = kernel[..., segment]
    return dense


@pytest.mark.parametrize("segments", [1, 2, 3, 6])
def test_a_point_of_the_spectrum_is_one_regular_convolution_with_the_product_of_its_kernels(
    segments,
):
    unit, kernels = _unit(6, 10, segments)
    spatial, pointwise = kernels.values()
    assert spatial.size == 9 * 6 * 6 // segments
    product = _dense_kernel(spatial, 6) @ pointwise[0, 0]
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 6)).astype(np.float32)
    expected = tf.nn.conv2d(x, product, strides=1, padding="SAME")
    np.testing.assert_allclose(unit(x), expected, atol=1e-5)


def test_one_segment_is_a_plain_convolution_and_a_pointwise_one():
    unit, kernels = _unit(6, 10, segments=1)
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 6)).astype(np.float32)
    plain = keras.Sequential(
        [
            keras.layers.Conv2D(6, 3, padding="same", use_bias=False),
            keras.layers.Conv2D(10, 1, use_bias=False),
        ]
    )
    plain.build(x.shape)
    plain.set_weights(list(kernels.values()))
    np.testing.assert_allclose(unit(x), plain(x), atol=1e-6)


def test_one_segment_a_channel_is_a_plain_separable_convolution():
    unit, kernels = _unit(6, 10, segments=6)
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 6)).astype(np.float32)
    plain = keras.layers.SeparableConv2D(10, 3, padding="same", use_bias=False)
    plain.build(x.shape)
    plain.set_weights(list(kernels.values()))
    np.testing.assert_array_equal(unit(x), plain(x))
    # A convolution in six groups, which is what lies beside it on the spectrum, agrees.
    grouped = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, groups=6)
    grouped.build(x.shape)
    depthwise, pointwise = kernels.values()
    grouped.set_weights([np.moveaxis(depthwise, 3, 2)])
    np.testing.assert_allclose(np.asarray(grouped(x)) @ pointwise[0, 0], unit(x), atol=1e-5)


@pytest.mark.parametrize("segments", [0, 2])
@pytest.mark.parametrize(
    ("activation", "function"),
    [("relu", lambda x: np.maximum(x, 0)), ("elu", lambda x: np.where(x > 0, x, np.expm1(x)))],
)
def test_an_intermediate_activation_acts_between_both_parts(segments, activation, function):
    unit, kernels = _unit(6, 10, segments, activation)
    spatial, pointwise = kernels.values()
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 6)).astype(np.float32)
    between = tf.nn.conv2d(x, _dense_kernel(spatial, 6), strides=1, padding="SAME").numpy()
    np.testing.assert_allclose(unit(x), function(between) @ pointwise[0, 0], atol=1e-5)
