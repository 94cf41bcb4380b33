"""What asynchronous training costs over one process, and what a second worker brings.

    python -m benchmarks.async_scaling            all that follows; about five minutes on two cores
    python -m benchmarks.async_scaling cost       CPU seconds an image, and images/s of 2 over 1
    python -m benchmarks.async_scaling trivial    steps/s of a network that computes next to nothing

`cost` trains Xception with 1,000 classes at 149 pixels in batches of 16, of noise made in memory:
in one process on one core, with one worker, and with two, each pinned to a core of its own; a ps
and a chief share the cores with them. The bytes on the wire are counted by `benchmarks.async_wire`,
and a cluster of 60 workers is simulated by `benchmarks.cluster_simulation`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import psutil

from benchmarks.async_wire import connect, serve, start_servers
from model import cluster, quiet
from model import config as config_module
from model.launch import processes

MODULE = "benchmarks.async_scaling"
DEADLINE = 500.0  # seconds for one measurement
CASES = {  # name: (overrides of the JFT preset, classes, steps a closure, closures to measure)
    "cost": (("input.image_size=149", "input.batch_size=16"), 1000, 1, 6),
    "trivial": (("input.image_size=32", "input.batch_size=1"), 10, 32, 30),
}


def main(argv=None):
    """Runs the benchmark, or serves in it where TF_CONFIG says so."""
    if cluster.Cluster.from_environment():
        serve(cluster.Cluster.from_environment())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.async_scaling",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.async_scaling cost",
    )
    parser.add_argument("case", nargs="?", choices=sorted(CASES), help="default: all")
    parser.add_argument("--measure", type=int, metavar="WORKERS", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.measure is not None:
        print(json.dumps(measure(options.case, options.measure)))
        return 0
    for case in [options.case] if options.case else sorted(CASES):
        {"cost": report_cost, "trivial": report_trivial}[case]()
    return 0


def report_cost():
    """Prints the costs of one process, one worker and two."""
    print("Xception, 149 pixels, batches of 16:")
    found = {}
    for num_workers, name in ((0, "one process, one core"), (1, "1 worker"), (2, "2 workers")):
        found[num_workers] = figures = in_process_of_its_own("cost", num_workers)
        print(
            f"  {name:22s} {16 * figures['steps_per_second']:6.2f} images/s,"
            f" {figures['cpu_per_step'] / 16:.3f} CPU seconds an image",
            flush=True,
        )
    cpu = found[2]["cpu_per_step"] / found[0]["cpu_per_step"]
    speed = found[2]["steps_per_second"] / found[1]["steps_per_second"]
    print(f"  CPU seconds an image, 2 workers over one process   {cpu:.2f}")
    print(f"  images/s, 2 workers over 1                         {speed:.2f}")


def report_trivial():
    """Prints how many steps the coordinator and the store get through."""
    figures = in_process_of_its_own("trivial", 2)
    print("A network of 40 parameters, 32 steps a closure, 2 workers:")
    print(f"  {figures['steps_per_second']:.0f} steps/s")
    closure = 32 * figures["chief_cpu_per_step"]
    print(f"  {1000 * closure:.1f} ms of the chief's CPU for a closure")


def in_process_of_its_own(case, num_workers):
    """What `measure` found: TensorFlow has one coordinator a process."""
    command = [sys.executable, "-m", MODULE, case, f"--measure={num_workers}"]
    pinned = command if num_workers else ["taskset", "--cpu-list", "0", *command]
    result = subprocess.run(pinned, capture_output=True, text=True, timeout=DEADLINE)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def measure(case, num_workers):
    """{"steps_per_second", "cpu_per_step", "chief_cpu_per_step"}; 0 workers: in this process."""
    overrides, num_classes, steps_per_closure, closures = CASES[case]
    config = config_module.load_preset("jft", overrides)
    with tempfile.TemporaryDirectory() as folder:
        servers = start_servers(folder, num_workers, MODULE) if num_workers else []
        for core, worker in enumerate(servers[1:]):
            os.sched_setaffinity(worker.pid, {core % os.cpu_count()})
        try:
            here = cluster.Cluster.from_environment()
            if not here:
                quiet.start_tensorflow()
            coordinator = connect(here) if here else None
            closure = _closure(case, config, num_classes, steps_per_closure, here)

            def take(count):
                for _ in range(count):
                    coordinator.schedule(closure) if coordinator else closure()
                if coordinator:
                    coordinator.join()

            take(2 * max(1, num_workers))  # traces, and makes what threads there are
            everyone = [psutil.Process(), *(psutil.Process(server.pid) for server in servers)]
            before, started = [_cpu(process) for process in everyone], time.monotonic()
            take(closures)
            seconds = time.monotonic() - started
            spent = [_cpu(p) - b for p, b in zip(everyone, before, strict=True)]
        finally:
            processes.stop(servers)
    steps = closures * steps_per_closure
    return {
        "steps_per_second": steps / seconds,
        "cpu_per_step": sum(spent) / steps,
        "chief_cpu_per_step": spent[0] / steps,
    }


def _cpu(process):
    times = process.cpu_times()
    return times.user + times.system


def _closure(case, config, num_classes, steps_per_closure, here):
    import keras
    import tensorflow as tf

    from model import zoo
    from model.parameter_store import ParameterStore
    from model.training_step import training_step

    size, batch_size = config.input.image_size, config.input.batch_size
    if case == "trivial":
        inputs = keras.Input((size, size, 3))
        x = keras.layers.GlobalAveragePooling2D()(inputs)
        network = keras.Model(inputs, keras.layers.Dense(num_classes, name="head")(x))
    else:
        network = zoo.build(config, num_classes)
    store = ParameterStore(config, network, here and here.ps_devices)
    labels = {"labels": tf.zeros([batch_size, 4], tf.int64)}

    @tf.function(autograph=False)
    def closure():
        applied = []
        for _ in range(steps_per_closure):
            with tf.control_dependencies(applied):
                images = tf.random.uniform([batch_size, size, size, 3], -1.0, 1.0)
            targets = {name: tf.identity(target) for name, target in labels.items()}
            applied = [training_step(config, network, store, images, targets)]

    return closure


if __name__ == "__main__":
    sys.exit(main())
