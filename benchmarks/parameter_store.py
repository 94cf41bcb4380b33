"""What a step waits for the parameter store: flat blocks against a variable a tensor.

    python -m benchmarks.parameter_store

One worker pulls and pushes without computing anything in between, over loopback to real parameter
servers, with the store of `model.parameter_store` and with the usual layout: each tensor a variable
of its own, on the server with the least so far. Both do the same arithmetic to every number.
The two take turns; the median of the rounds is printed.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time

from benchmarks import servers
from model import config as config_module
from model.cluster import Cluster
from model.launch import processes

ROUNDS = 5
STEPS_PER_CLOSURE = 4
CASES = (  # what, overrides of the JFT preset, classes, closures a round
    ("demo network, float32 wire", ("network.width=0.25", "network.middle_modules=2"), 191, 8),
    ("Xception-1000, bfloat16 wire", (), 1000, 2),
)


def main(argv=None):
    """Runs the benchmark, or serves in it where TF_CONFIG says so."""
    here = Cluster.from_environment()
    if here:
        servers.serve(here)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parameter_store",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.parameter_store --num_ps=2",
    )
    parser.add_argument("--num_ps", type=int, default=1, help="parameter servers (default: 1)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        running = servers.start(
            "benchmarks.parameter_store", options.num_ps, num_workers=1, folder=folder
        )
        try:
            here, coordinator = servers.connect()
            for name, overrides, num_classes, closures in CASES:
                wire = "float32" if "float32" in name else "bfloat16"
                wires = [f"train.{way}_dtype={wire}" for way in ("pull", "push")]
                config = config_module.load_preset("jft", [*overrides, *wires])
                compare(coordinator, here, name, config, num_classes, closures)
        finally:
            processes.stop(running)
    return 0


def compare(coordinator, here, name, config, num_classes, closures):
    """Prints steps/s of both layouts and their ratio."""
    from model import zoo
    from model.parameter_store import ParameterStore

    network = zoo.build(config, num_classes)
    stores = {
        "flat blocks": ParameterStore(config, network, here.ps_devices),
        "a variable a tensor": VariablePerTensor(config, network, here.ps_devices),
    }
    closures_by_store = {kind: exchange_function(store) for kind, store in stores.items()}
    rates = {kind: [] for kind in stores}
    for round_number in range(ROUNDS + 1):
        for kind, closure in closures_by_store.items():
            started = time.monotonic()
            for _ in range(closures):
                coordinator.schedule(closure)
            coordinator.join()
            if round_number:  # the first one traces
                seconds = time.monotonic() - started
                rates[kind].append(closures * STEPS_PER_CLOSURE / seconds)
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    print(f"{name}: {len(network.weights)} tensors, {network.count_params():,} parameters")
    for kind, rate in medians.items():
        spread = f"{min(rates[kind]):.1f} to {max(rates[kind]):.1f}"
        print(f"  {kind:20s} {rate:7.1f} steps/s ({spread})")
    flat, usual = medians.values()
    print(f"  ratio                {flat / usual:7.2f}")


def exchange_function(store):
    """A tf.function of steps that pull, and push what they pulled as if it were a gradient."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def exchange():
        for _ in range(STEPS_PER_CLOSURE):
            pulled = store.pull()
            store.push(pulled, pulled.trainable, pulled.statistics, 32, tf.constant(0.0))

    return exchange


class VariablePerTensor:
    """The usual layout, with the rules of ParameterStore."""

    def __init__(self, config, network, devices):
        import tensorflow as tf

        self._config = config
        self._wire_dtype = tf.as_dtype(config.train.pull_dtype)
        loads = dict.fromkeys(devices, 0)
        self._cells = {}
        for variable in sorted(network.weights, key=lambda v: -math.prod(v.shape)):
            device = min(devices, key=loads.get)
            loads[device] += math.prod(variable.shape)
            with tf.device(device):
                copies = 4 if variable.trainable else 2
                cells = [tf.Variable(tf.zeros(variable.shape)) for _ in range(copies)]
            self._cells[variable.path] = (device, cells)
        self._trainable = [v.path for v in network.trainable_variables]
        self._statistics = [v.path for v in network.non_trainable_variables]
        with tf.device(devices[0]):
            self._counters = tf.Variable(tf.zeros([4], tf.float64))

    def pull(self):
        """As ParameterStore.pull."""
        import tensorflow as tf

        from model.parameter_store import Pulled

        with tf.device(self._counters.device):
            counters = self._counters.read_value()
        values = {}
        for path, (device, cells) in self._cells.items():
            with tf.device(device):
                value = cells[0].read_value()
                if path in self._trainable:
                    value = tf.cast(value, self._wire_dtype)
            values[path] = tf.cast(value, tf.float32)
        return Pulled(
            trainable=[values[path] for path in self._trainable],
            statistics=[values[path] for path in self._statistics],
            step=tf.cast(counters[0], tf.int64),
            samples=tf.cast(counters[1], tf.int64),
        )

    def push(self, pulled, gradients, statistics, batch_size, loss):
        """As ParameterStore.push."""
        import tensorflow as tf

        from model import optimizers

        rate = optimizers.learning_rate(self._config, pulled.step, pulled.samples)
        for path, gradient in zip(self._trainable, gradients, strict=True):
            device, (values, ema, mean_square, momentum) = self._cells[path]
            gradient = tf.cast(gradient, self._wire_dtype)
            with tf.device(device):
                gradient = tf.cast(gradient, tf.float32)
                if path.endswith("kernel"):
                    gradient += self._config.optimizer.weight_decay * values.read_value()
                optimizers.apply_rmsprop(
                    self._config.optimizer, values, mean_square, momentum, gradient, rate
                )
                ema.assign_sub(0.1 * (ema.read_value() - values.read_value()), read_value=False)
        updates = zip(self._statistics, statistics, pulled.statistics, strict=True)
        for path, new, old in updates:
            device, (values, ema) = self._cells[path]
            keep = self._config.network.batch_norm_momentum
            batch = (new - keep * old) / (1.0 - keep)
            with tf.device(device):
                values.assign_sub((1.0 - keep) * (values.read_value() - batch), read_value=False)
                ema.assign_sub(0.1 * (ema.read_value() - values.read_value()), read_value=False)
        counts = [tf.cast(value, tf.float64) for value in (1, batch_size, loss, pulled.step)]
        with tf.device(self._counters.device):
            self._counters.assign_add(tf.stack(counts), read_value=False)


if __name__ == "__main__":
    sys.exit(main())
