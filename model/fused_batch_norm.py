"""Batch normalization over [b, h, w, c] as one TensorFlow kernel, with Keras's conventions."""

import tensorflow as tf


def training(x, gamma, beta, epsilon):
    """Returns (normalized x, batch mean [c], batch variance [c]).

    The variance is the biased one (divided by n), which Keras averages; the kernel gives the
    unbiased one (divided by n - 1).
    """
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x, tf.convert_to_tensor(gamma), tf.convert_to_tensor(beta), epsilon=epsilon
    )
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), tf.float32)
    return outputs, mean, variance * ((count - 1.0) / count)


def inference(x, gamma, beta, mean, variance, epsilon):
    """Returns x normalized with the given statistics."""
    outputs, _, _ = tf.compat.v1.nn.fused_batch_norm(
        x,
        tf.convert_to_tensor(gamma),
        tf.convert_to_tensor(beta),
        mean=tf.convert_to_tensor(mean),
        variance=tf.convert_to_tensor(variance),
        epsilon=epsilon,
        is_training=False,
    )
    return outputs
