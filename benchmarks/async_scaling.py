"""How many steps the coordinator and the store get through, where a step computes next to nothing.

    python -m benchmarks.async_scaling

Two workers and a ps, each worker pinned to a core. The bytes on the wire are counted by
`benchmarks.async_wire`; a cluster of 60 workers is simulated by `benchmarks.cluster_simulation`.
"""

import argparse
import os
import sys
import tempfile
import time

import psutil

from benchmarks import servers
from model import config as config_module
from model.cluster import Cluster
from model.launch import processes

NUM_WORKERS = 2
STEPS_PER_CLOSURE = 32
CLOSURES = 30


def main(argv=None):
    """Runs the benchmark, or serves in it where TF_CONFIG says so."""
    here = Cluster.from_environment()
    if here:
        servers.serve(here)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.async_scaling",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.async_scaling",
    )
    parser.parse_args(argv)
    figures = measure()
    print(f"A network of 40 parameters, {STEPS_PER_CLOSURE} steps a closure, 2 workers:")
    print(f"  {figures['steps_per_second']:.0f} steps/s")
    closure = STEPS_PER_CLOSURE * figures["chief_cpu_per_step"]
    print(f"  {1000 * closure:.1f} ms of the chief's CPU for a closure")
    return 0


def measure():
    """{"steps_per_second", "chief_cpu_per_step"}."""
    overrides = ["input.image_size=32", "input.batch_size=1"]
    config = config_module.load_preset("jft", overrides)
    with tempfile.TemporaryDirectory() as folder:
        running = servers.start(
            "benchmarks.async_scaling", num_ps=1, num_workers=NUM_WORKERS, folder=folder
        )
        for core, worker in enumerate(running[1:]):
            os.sched_setaffinity(worker.pid, {core % os.cpu_count()})
        try:
            here, coordinator = servers.connect()
            closure = _closure(config, here)

            def take(count):
                for _ in range(count):
                    coordinator.schedule(closure)
                coordinator.join()

            take(2 * NUM_WORKERS)  # traces, and makes what threads there are
            before, started = _cpu_seconds(), time.monotonic()
            take(CLOSURES)
            seconds, spent = time.monotonic() - started, _cpu_seconds() - before
        finally:
            processes.stop(running)
    steps = CLOSURES * STEPS_PER_CLOSURE
    return {"steps_per_second": steps / seconds, "chief_cpu_per_step": spent / steps}


def _cpu_seconds():
    times = psutil.Process().cpu_times()
    return times.user + times.system


def _closure(config, here):
    import keras
    import tensorflow as tf

    from model.parameter_store import ParameterStore
    from model.training_step import training_step

    size = config.input.image_size
    inputs = keras.Input((size, size, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    network = keras.Model(inputs, keras.layers.Dense(10, name="head")(x))
    store = ParameterStore(config, network, here.ps_devices)

    @tf.function(autograph=False)
    def closure():
        applied = []
        for _ in range(STEPS_PER_CLOSURE):
            with tf.control_dependencies(applied):
                images = tf.random.uniform([1, size, size, 3], -1.0, 1.0)
            targets = {"labels": tf.zeros([1, 4], tf.int64)}
            applied = [training_step(config, network, store, images, targets)]

    return closure


if __name__ == "__main__":
    sys.exit(main())
