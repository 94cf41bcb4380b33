"""Bytes a step on the wire: our store against a parameter-server `fit` of tf_keras.

    unshare --net sh -c 'ip link set lo up && exec python -m benchmarks.async_wire'

Xception with 17,000 classes (section 4.1) takes steps on one ps and one worker, by `training_step`
with bfloat16 both ways; then tf_keras's network of the same size trains on the same servers, as
TensorFlow's guide to parameter servers has it. What the loopback interface has carried meanwhile is
divided by the steps. A network namespace of its own (`unshare`) keeps other traffic out. The bytes
depend on the parameters alone, so images are small.
"""

import sys
import tempfile

import psutil

from benchmarks import servers
from benchmarks.full_size import NUM_CLASSES, loopback_bytes
from model import config as config_module
from model.cluster import Cluster
from model.launch import processes

STEPS = 6
IMAGE_SIZE, BATCH_SIZE = 71, 2


def main():
    """Runs the benchmark, or serves in it where TF_CONFIG says so."""
    here = Cluster.from_environment()
    if here:
        servers.serve(here)
    with tempfile.TemporaryDirectory() as folder:
        running = servers.start("benchmarks.async_wire", num_ps=1, num_workers=1, folder=folder)
        try:
            here, coordinator = servers.connect()
            ps = psutil.Process(running[0].pid)
            ours, ps_seconds = cost_of_store(coordinator, here, ps)
            theirs = bytes_of_keras(coordinator)
        finally:
            processes.stop(running)
    print(f"Xception, {NUM_CLASSES:,} classes, MB a step on the loopback interface:")
    print(f"  parameter store, bfloat16 both ways   {ours / 1e6:7.1f}")
    print(f"  tf_keras fit, parameter servers       {theirs / 1e6:7.1f}")
    print(f"  ratio                                 {theirs / ours:7.2f}")
    print(f"CPU seconds of the ps for a step of the parameter store: {ps_seconds:.2f}")
    return 0


def cost_of_store(coordinator, here, ps):
    """(bytes, CPU seconds of the ps) of one of our training steps."""
    import tensorflow as tf

    from model import zoo
    from model.parameter_store import ParameterStore
    from model.training_step import training_step

    config = config_module.load_preset("jft", [f"input.image_size={IMAGE_SIZE}"])
    network = zoo.build(config, NUM_CLASSES)
    store = ParameterStore(config, network, here.ps_devices)

    @tf.function(autograph=False)
    def step():
        images = tf.random.uniform([BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3], -1.0, 1.0)
        labels = tf.random.uniform([BATCH_SIZE, 4], 0, NUM_CLASSES, tf.int64)
        training_step(config, network, store, images, {"labels": labels})

    def take(num_steps):
        for _ in range(num_steps):
            coordinator.schedule(step)
        coordinator.join()

    take(2)  # the first one traces
    before, times = loopback_bytes(), ps.cpu_times()
    take(STEPS)
    after = ps.cpu_times()
    seconds = after.user + after.system - times.user - times.system
    return (loopback_bytes() - before) / STEPS, seconds / STEPS


def bytes_of_keras(coordinator):
    """Bytes of one step of a tf_keras `fit`."""
    import tensorflow as tf
    import tf_keras

    strategy = coordinator.strategy
    with strategy.scope():
        network = tf_keras.applications.Xception(
            weights=None,
            input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
            classes=NUM_CLASSES,
            classifier_activation=None,
        )
        network.compile(
            optimizer=tf_keras.optimizers.legacy.RMSprop(0.001, momentum=0.9),
            loss=tf_keras.losses.BinaryCrossentropy(from_logits=True),
        )

    def dataset(context):
        del context
        images = tf.random.uniform([BATCH_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3], -1.0, 1.0)
        return tf.data.Dataset.from_tensors((images, tf.zeros([BATCH_SIZE, NUM_CLASSES]))).repeat()

    class Traffic(tf_keras.callbacks.Callback):
        """Bytes at the ends of the epochs."""

        def __init__(self):
            super().__init__()
            self.bytes = []

        def on_epoch_end(self, epoch, logs=None):
            self.bytes.append(loopback_bytes())

    traffic = Traffic()
    creator = tf_keras.utils.experimental.DatasetCreator(dataset)
    network.fit(creator, epochs=2, steps_per_epoch=STEPS, callbacks=[traffic], verbose=0)
    return (traffic.bytes[1] - traffic.bytes[0]) / STEPS


if __name__ == "__main__":
    sys.exit(main())
