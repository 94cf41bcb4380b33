"""The sparse losses against dense NumPy forms, written from the papers in float64."""

import numpy as np
import pytest
import tensorflow as tf

from model import losses
from model.config import LossConfig

NUM_CLASSES = 11
LABELS = [[0, 10], [3], [], [1, 2, 3, 4], [7]]
CONFIDENCES = [[1.0, 0.25], [0.5], [], [0.0, 0.9, 1.0, 0.3], [0.7]]
NEGATIVES = [[], [2, 9], [0, 5, 6], [10], [0]]
ALL_COSTS = [
    LossConfig(name="sigmoid_cross_entropy"),
    LossConfig(name="focal"),
    LossConfig(name="focal", gamma=0.5, alpha=0.6),
    LossConfig(name="asymmetric"),
    LossConfig(name="asymmetric", gamma_positive=1.0, gamma_negative=0.5, clip=0.2),
    LossConfig(name="asymmetric", gamma_positive=0.0, gamma_negative=2.0, clip=0.0),
]


def _padded(lists, fill, dtype):
    padded = np.full((len(lists), max(map(len, lists))), fill, dtype)
    for row, values in zip(padded, lists, strict=True):
        row[: len(values)] = values
    return padded


def _targets(labels=LABELS, confidences=CONFIDENCES, negatives=NEGATIVES):
    return {
        "labels": _padded(labels, -1, np.int64),
        "confidences": _padded(confidences, 0.0, np.float32),
        "negatives": _padded(negatives, -1, np.int64),
    }


def _logits(seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, (5, NUM_CLASSES))


def _costs(config, x):
    """(P, N): what each logit costs as a positive and as a negative, as the papers print it."""
    p = 1 / (1 + np.exp(-x))
    if config.name == "focal":  # Lin et al. 2017, equation 5
        positive = -config.alpha * (1 - p) ** config.gamma * np.log(p)
        return positive, -(1 - config.alpha) * p**config.gamma * np.log(1 - p)
    if config.name == "asymmetric":  # Ridnik et al. 2021
        shifted = np.maximum(p - config.clip, 0)
        positive = -((1 - p) ** config.gamma_positive) * np.log(p)
        return positive, -(shifted**config.gamma_negative) * np.log(1 - shifted)
    return -np.log(p), -np.log(1 - p)


def _dense_loss(config, logits):
    """Two dense matrices of weights, and a sum over everything."""
    positive_weight = np.zeros(logits.shape)
    negative_weight = np.full(logits.shape, config.unknown_weight)
    for row in range(len(logits)):
        for c in NEGATIVES[row]:
            negative_weight[row, c] = 1.0
        for c, confidence in zip(LABELS[row], CONFIDENCES[row], strict=True):
            positive_weight[row, c] = 1.0 if config.confidence == "ignore" else confidence
            soft = config.confidence == "soft_target"
            negative_weight[row, c] = 1.0 - confidence if soft else 0.0
    positive, negative = _costs(config, logits)
    return (positive_weight * positive + negative_weight * negative).sum(axis=1).mean()


def _numeric_gradient(function, x, step=1e-5):
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (function(up) - function(down)) / (2 * step)
    return gradient


def _loss_and_gradient(config, logits, targets):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.compute(config, logits, targets)
    return loss, tape.gradient(loss, logits)


def _with(config, **changes):
    return LossConfig(**{**vars(config), **changes})


@pytest.mark.parametrize("unknown_weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("confidence", ["ignore", "weight", "soft_target"])
@pytest.mark.parametrize("costs", ALL_COSTS, ids=str)
def test_each_loss_and_its_gradient_equal_the_dense_form(costs, confidence, unknown_weight):
    config = _with(costs, confidence=confidence, unknown_weight=unknown_weight)
    logits = _logits()
    loss, gradient = _loss_and_gradient(config, logits.astype(np.float32), _targets())
    np.testing.assert_allclose(loss, _dense_loss(config, logits), rtol=1e-5)
    expected = _numeric_gradient(lambda x: _dense_loss(config, x), logits)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_default_is_what_it_was_bit_for_bit():
    logits = _logits().astype(np.float32)
    labels = _targets()["labels"]
    loss, gradient = _loss_and_gradient(LossConfig(), logits, {"labels": labels})

    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        picked = tf.gather(x, tf.where(labels >= 0, labels, 0), batch_dims=1)
        of_labels = tf.reduce_sum(tf.where(labels >= 0, picked, 0.0), axis=1)
        before = tf.reduce_mean(tf.reduce_sum(tf.math.softplus(x), axis=1) - of_labels)
    np.testing.assert_array_equal(loss, before)
    np.testing.assert_array_equal(gradient, tape.gradient(before, x))


@pytest.mark.parametrize("costs", ALL_COSTS, ids=str)
def test_bfloat16_logits_are_computed_in_float32(costs):
    config = _with(costs, confidence="weight", unknown_weight=0.5)
    rounded = tf.cast(_logits(), tf.bfloat16)
    loss, gradient = _loss_and_gradient(config, rounded, _targets())
    exact = tf.cast(rounded, tf.float64).numpy()
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, _dense_loss(config, exact), rtol=1e-5)
    assert gradient.dtype == tf.bfloat16


@pytest.mark.parametrize("unknown_weight", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("costs", ALL_COSTS, ids=str)
def test_extreme_logits_give_finite_losses_and_gradients(costs, unknown_weight):
    config = _with(costs, confidence="soft_target", unknown_weight=unknown_weight)
    for size in (30.0, 100.0, 1e4, 1e30):
        logits = np.sign(_logits(1)).astype(np.float32) * np.float32(size)
        loss, gradient = _loss_and_gradient(config, logits, _targets())
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()


def test_a_large_logit_that_is_right_costs_nothing():
    targets = {"labels": np.array([[0]])}
    for costs in ALL_COSTS:
        loss = losses.compute(costs, tf.constant([[1e4, -1e4]]), targets)
        np.testing.assert_allclose(loss, 0.0, atol=1e-6)


@pytest.mark.parametrize("costs", ALL_COSTS, ids=str)
def test_lists_that_are_empty_in_the_whole_batch_are_no_trouble(costs):
    empty = _targets([[], []], [[], []], [[], []])
    logits = np.zeros((2, 3), np.float32)
    for unknown_weight, num_counted in ((1.0, 3), (0.0, 0)):
        config = _with(costs, confidence="weight", unknown_weight=unknown_weight)
        loss, gradient = _loss_and_gradient(config, logits, empty)
        _, negative = _costs(config, np.zeros(1))
        np.testing.assert_allclose(loss, num_counted * negative[0], rtol=1e-5)
        assert np.isfinite(gradient).all()


def test_a_masked_class_has_no_gradient():
    config = LossConfig(unknown_weight=0.0)
    _, gradient = _loss_and_gradient(config, _logits().astype(np.float32), _targets())
    known = np.zeros((5, NUM_CLASSES), bool)
    for row in range(5):
        known[row, LABELS[row] + NEGATIVES[row]] = True
    np.testing.assert_array_equal(np.asarray(gradient) != 0.0, known)


def test_softmax_cross_entropy_is_minus_the_logarithm_of_the_labels_share():
    logits = _logits()[:3]
    targets = {"labels": np.array([[2], [0], [10]]), "confidences": np.array([[1.0], [0.5], [0.0]])}
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    each = -np.log(shares[[0, 1, 2], [2, 0, 10]])
    config = LossConfig(name="softmax_cross_entropy")
    loss, gradient = _loss_and_gradient(config, logits.astype(np.float32), targets)
    np.testing.assert_allclose(loss, each.mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient, (shares - np.eye(11)[[2, 0, 10]]) / 3, atol=1e-6)

    config = LossConfig(name="softmax_cross_entropy", confidence="weight")
    targets["confidences"] = targets["confidences"].astype(np.float32)
    loss = losses.compute(config, logits, targets)
    np.testing.assert_allclose(loss, (each * [1.0, 0.5, 0.0]).mean(), rtol=1e-5)


def test_the_input_is_asked_for_no_more_than_the_loss_needs():
    assert losses.features(LossConfig()) == ["labels"]
    assert losses.features(LossConfig(confidence="weight")) == ["labels", "confidences"]
    assert losses.features(LossConfig(unknown_weight=0.5)) == ["labels", "negatives"]
    assert losses.features(LossConfig(name="softmax_cross_entropy")) == ["labels"]
