"""One training step: pull, forward, backward, push. The same for every trainer."""

import tensorflow as tf

from model import losses


def training_step(config, network, store, images, targets):
    """Takes one step of `network` (a Keras model used as a pure function) against `store`.

    Args:
        config: a Config; gives the loss.
        images: float32 [batch, size, size, 3] in [-1, 1].
        targets: {name: [batch, ...]}, what the loss needs; see losses.features.

    Raises:
        InvalidArgumentError: the loss is NaN or infinite; nothing has been pushed then.
    """
    pulled = store.pull()
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(pulled.trainable)
        logits, statistics = network.stateless_call(
            pulled.trainable, pulled.statistics, images, training=True
        )
        loss = losses.compute(config.loss, logits, targets)
        loss = tf.debugging.check_numerics(loss, "The training loss is not finite")
    gradients = tape.gradient(loss, pulled.trainable)
    with tf.control_dependencies([loss]):
        store.push(pulled, gradients, statistics, tf.shape(images, tf.int64)[0], loss)
