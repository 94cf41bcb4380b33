"""The sparse loss against the dense textbook form."""

import numpy as np
import tensorflow as tf

from model.losses import sigmoid_cross_entropy


def test_it_equals_the_dense_form_summed_over_classes():
    random = np.random.default_rng(0)
    logits = random.normal(0, 4, (5, 11)).astype(np.float32)
    label_lists = [[0, 10], [3], [], [1, 2, 3, 4], [7]]
    padded = np.full((5, 4), -1, np.int64)
    targets = np.zeros((5, 11), np.float32)
    for row, ids in enumerate(label_lists):
        padded[row, : len(ids)] = ids
        targets[row, ids] = 1.0

    dense = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    expected = tf.reduce_mean(tf.reduce_sum(dense, axis=1))
    np.testing.assert_allclose(sigmoid_cross_entropy(logits, padded), expected, rtol=1e-6)


def test_its_gradient_is_probability_minus_target():
    logits = tf.constant([[0.0, 2.0, -1.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = sigmoid_cross_entropy(logits, tf.constant([[1, -1]], tf.int64))
    expected = 1 / (1 + np.exp(-np.array([[0.0, 2.0, -1.0]]))) - [[0, 1, 0]]
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, atol=1e-6)


def test_images_without_any_label_are_all_negatives():
    loss = sigmoid_cross_entropy(tf.zeros([2, 3]), tf.zeros([2, 0], tf.int64))
    np.testing.assert_allclose(loss, 3 * np.log(2), rtol=1e-6)


def test_large_logits_stay_finite():
    loss = sigmoid_cross_entropy(tf.constant([[1e4, -1e4]]), tf.constant([[0]], tf.int64))
    np.testing.assert_allclose(loss, 0.0, atol=1e-6)
