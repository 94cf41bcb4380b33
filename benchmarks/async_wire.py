"""Bytes a step on the wire: our store against a parameter-server `fit` of tf_keras.

    unshare --net sh -c 'ip link set lo up && exec python -m benchmarks.async_wire'

Xception with 17,000 classes (section 4.1) takes steps on one ps and one worker, by `training_step`
with bfloat16 both ways; then tf_keras's network of the same size trains on the same servers, as
TensorFlow's guide to parameter servers has it. What the loopback interface has carried meanwhile is
divided by the steps. A network namespace of its own (`unshare`) keeps other traffic out. The bytes
depend on the parameters alone, so images are small.
"""

import json
import os
import sys
import tempfile

import psutil

from benchmarks.full_size import NUM_CLASSES, loopback_bytes
from model import cluster, quiet, train
from model import config as config_module
from model.launch import local, processes

STEPS = 6
START_TIMEOUT = 120.0  # seconds
IMAGE_SIZE, BATCH_SIZE = 71, 2


def main():
    """Runs the benchmark, or serves in it where TF_CONFIG says so."""
    here = cluster.Cluster.from_environment()
    if here:
        serve(here)
    with tempfile.TemporaryDirectory() as folder:
        servers = start_servers(folder, num_workers=1)
        try:
            here = cluster.Cluster.from_environment()
            coordinator = connect(here)
            ps = psutil.Process(servers[0].pid)
            ours, ps_seconds = cost_of_store(coordinator, here, ps)
            theirs = bytes_of_keras(coordinator)
        finally:
            processes.stop(servers)
    print(f"Xception, {NUM_CLASSES:,} classes, MB a step on the loopback interface:")
    print(f"  parameter store, bfloat16 both ways   {ours / 1e6:7.1f}")
    print(f"  tf_keras fit, parameter servers       {theirs / 1e6:7.1f}")
    print(f"  ratio                                 {theirs / ours:7.2f}")
    print(f"CPU seconds of the ps for a step of the parameter store: {ps_seconds:.2f}")
    return 0


def serve(here):
    """Serves until the process is ended."""
    import time

    inter_op_threads, intra_op_threads = here.threads()
    quiet.start_tensorflow(inter_op_threads, intra_op_threads)
    import tensorflow as tf

    addresses = {role: list(hosts) for role, hosts in here.addresses.items()}
    tf.distribute.Server(
        tf.train.ClusterSpec(addresses),
        job_name=here.role,
        task_index=here.index,
        protocol="grpc",
        config=tf.compat.v1.ConfigProto(
            inter_op_parallelism_threads=inter_op_threads,
            intra_op_parallelism_threads=intra_op_threads,
        ),
    )
    while True:
        time.sleep(1.0)


def connect(here):
    """The coordinator of the servers."""
    quiet.start_tensorflow(*here.threads())
    return train.connect(here, START_TIMEOUT, lambda doing: None)


def start_servers(folder, num_workers, module="benchmarks.async_wire"):
    """[ps, workers]: started; this process is their chief from here on."""
    ports = iter(local.free_ports(2 + num_workers))
    addresses = {
        role: [f"127.0.0.1:{next(ports)}" for _ in range(count)]
        for role, count in (("chief", 1), ("ps", 1), ("worker", num_workers))
    }
    servers = []
    for role, index in [("ps", 0), *(("worker", i) for i in range(num_workers))]:
        task = {"cluster": addresses, "task": {"type": role, "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        log = open(os.path.join(folder, f"{role}-{index}.log"), "w")  # noqa: SIM115
        command = [sys.executable, "-m", module]
        servers.append(processes.start(command, env=environment, stderr=log))
        log.close()
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": addresses, "task": {"type": "chief", "index": 0}}
    )
    return servers


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
