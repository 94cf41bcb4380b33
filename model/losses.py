"""Losses over sparse lists of labels: no dense target of 17,000 columns is ever built."""

import tensorflow as tf


def sigmoid_cross_entropy(logits, labels):
    """Sigmoid cross-entropy, summed over classes and averaged over images. A float32 scalar.

    For logits x and the set P of an image's positives it is
    sum_c softplus(x_c) - sum_{c in P} x_c, which equals the dense form for targets of 0 and 1.
    The sum over classes, not their mean, keeps the gradient of a class the same size whatever the
    number of classes.

    Args:
        logits: float32 [batch, num_classes].
        labels: int64 [batch, max_labels]; ids of distinct positive classes, padded with -1.
    """
    is_label = labels >= 0
    positives = tf.gather(logits, tf.where(is_label, labels, 0), batch_dims=1)
    positive_sum = tf.reduce_sum(tf.where(is_label, positives, 0.0), axis=1)
    return tf.reduce_mean(tf.reduce_sum(tf.math.softplus(logits), axis=1) - positive_sum)
