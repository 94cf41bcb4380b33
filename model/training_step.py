"""One training step: pull, forward, backward, push. The same for every trainer."""

import tensorflow as tf

from model.losses import sigmoid_cross_entropy


def training_step(network, store, images, labels):
    """Takes one step of `network` (a Keras model used as a pure function) against `store`.

    Args:
        images: float32 [batch, size, size, 3] in [-1, 1].
        labels: int64 [batch, max_labels], padded with -1.

    Raises:
        InvalidArgumentError: the loss is NaN or infinite; nothing has been pushed then.
    """
    pulled = store.pull()
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(pulled.trainable)
        logits, statistics = network.stateless_call(
            pulled.trainable, pulled.statistics, images, training=True
        )
        loss = sigmoid_cross_entropy(logits, labels)
        loss = tf.debugging.check_numerics(loss, "The training loss is not finite")
    gradients = tape.gradient(loss, pulled.trainable)
    with tf.control_dependencies([loss]):
        store.push(pulled, gradients, statistics, tf.shape(images, tf.int64)[0], loss)
