"""How fast a training step of Xception is, what bounds it, and how fast its input comes.

    python -m benchmarks.train_step [--image_size=299] [--batch_size=8] [--images=photos]

1. Images/s of the step (fused batch normalization, fused optimizer) against `keras.Model.fit` and
   `tf_keras.Model.fit` of the same network, in turns in one process, float32 and bfloat16.
2. What bounds it: CPU seconds of the parts of a step, and the share of this machine's matrix
   multiplication peak that the network's arithmetic comes to.
3. The input pipeline alone, at the same image size, by wall and by CPU seconds. Photographs of a
   folder, or drawn ones, are sharded for it.
"""

import argparse
import math
import statistics
import sys
import time
from pathlib import Path

from benchmarks import contestants, photographs, usage
from benchmarks.contestants import PRECISIONS, Setting

TARGET_SPEEDUP = 1.25  # images/s over keras.Model.fit
TARGET_INPUT_RATE = 735  # images/s/core at 299 pixels
TARGET_INPUT_RATIO = 10  # times what training consumes
NUM_PHOTOGRAPHS = 1500
MATMUL_SIZE = 2048


def main(argv=None):
    """Runs the benchmark; returns its exit code."""
    options = parse(argv)
    from model import quiet

    quiet.start_tensorflow()
    trained = 0.0
    for precision in options.precision:
        setting = Setting(options.image_size, options.batch_size, options.num_classes, precision)
        trained = max(trained, compare(setting, options.rounds, options.steps))
        explain(setting, options.rounds)
    return usage.in_temporary_folder(
        "benchmarks.train_step",
        lambda folder: measure_input(folder, options.images, options.image_size, trained),
    )


def parse(argv):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.train_step --image_size=149 --batch_size=16",
    )
    contestants.add_arguments(parser, PRECISIONS)
    parser.add_argument("--images", type=Path, help="folder of photographs (draws some)")
    return parser.parse_args(argv)


def compare(setting, rounds, steps):
    """Prints the rates of ours and the peers; returns our images/s."""
    print(
        f"\nXception, {setting.image_size} pixels, batch {setting.batch_size}, "
        f"{setting.num_classes:,} classes, {setting.precision}"
    )
    builders = (contestants.ours, contestants.keras_applications, contestants.tf_keras)
    rates = contestants.measure([build("xception", setting) for build in builders], rounds, steps)
    for name, rate in rates.items():
        print(
            f"  {name:10s} {rate.steps_per_second * setting.batch_size:7.2f} images/s  "
            f"{rate.cpu_seconds:6.2f} CPU s a step"
        )
    for peer in ("keras", "tf_keras"):
        by_wall = rates["ours"].steps_per_second / rates[peer].steps_per_second
        by_cpu = rates[peer].cpu_seconds / rates["ours"].cpu_seconds
        target = f"  (target {TARGET_SPEEDUP})" if peer == "keras" else ""
        print(f"  ours over {peer}.Model.fit: {by_wall:.2f}, by CPU {by_cpu:.2f}{target}")
    return rates["ours"].steps_per_second * setting.batch_size


def explain(setting, rounds):
    """Prints what the parts of our step take, and its share of the matrix multiplication peak."""
    step = contestants.ours("xception", setting)
    network = contestants.our_network("xception", setting)
    rates = contestants.measure([*parts_of(network, setting), step], rounds, steps=1)
    whole = rates[step.name]
    forward, backward = rates["forward"].cpu_seconds, rates["forward and backward"].cpu_seconds
    print(
        f"  CPU s of a step: forward {forward:.2f}, backward {backward - forward:.2f}, "
        f"store and optimizer {whole.cpu_seconds - backward:.2f}"
    )
    num_multiply_adds = multiply_adds(network)
    # A training step is three passes: forward, and the gradients of inputs and of kernels.
    flops = 3 * 2 * num_multiply_adds * setting.batch_size * whole.steps_per_second
    peak = matmul_flops(setting.precision)
    print(
        f"  arithmetic: {2 * num_multiply_adds / 1e9:.2f} GFLOP an image forward; "
        f"{flops / 1e9:.0f} GFLOP/s in training, {100 * flops / peak:.0f}% of the "
        f"{peak / 1e9:.0f} that a {MATMUL_SIZE}-square matrix product reaches here"
    )


def parts_of(network, setting):
    """[Contestant]: the passes of a step alone."""
    import tensorflow as tf

    from model import losses
    from model.config import LossConfig
    from pipeline import schema

    images, labels = contestants.batch(setting)
    trainable = [tf.constant(variable.numpy()) for variable in network.trainable_variables]
    statistics_before = [tf.constant(v.numpy()) for v in network.non_trainable_variables]

    @tf.function(autograph=False)
    def forward():
        logits, _ = network.stateless_call(trainable, statistics_before, images, training=True)
        return losses.compute(LossConfig(), logits, {schema.LABELS: labels})

    @tf.function(autograph=False)
    def forward_and_backward():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(trainable)
            loss = forward()
        return tape.gradient(loss, trainable)

    def repeated(function):
        def take_steps(count):
            for _ in range(count):
                function()

        return take_steps

    return [
        contestants.Contestant("forward", 0, repeated(forward)),
        contestants.Contestant("forward and backward", 0, repeated(forward_and_backward)),
    ]


def multiply_adds(network):
    """Multiplications with an addition that the network's layers do for one image, forward."""
    import keras

    total = 0
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            total += math.prod(layer.kernel.shape)
        elif "Conv" in type(layer).__name__:  # regular, depthwise or separable
            positions = math.prod(layer.output.shape[1:3])
            kernels = [weight for weight in layer.weights if "kernel" in weight.name]
            total += positions * sum(math.prod(kernel.shape) for kernel in kernels)
    return total


def matmul_flops(precision):
    """FLOP/s of a large matrix product on this machine, the median of five."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.normal((MATMUL_SIZE, MATMUL_SIZE)), precision)
    seconds = []
    for _ in range(6):
        started = time.monotonic()
        tf.matmul(matrix, matrix).numpy()
        seconds.append(time.monotonic() - started)
    return 2 * MATMUL_SIZE**3 / statistics.median(seconds[1:])


def measure_input(folder, images, image_size, trained):
    """Shards photographs at `image_size`, and prints what the training input makes of them."""
    shards = photographs.shard(folder, images, NUM_PHOTOGRAPHS, image_size)

    from model import config as config_module
    from model.input import training_dataset
    from pipeline import metadata

    config = config_module.load_preset("jft", [f"input.image_size={image_size}"])
    split = metadata.load_split(str(shards), "train")
    batches = iter(training_dataset(config, split.shard_paths, split.shard_lengths))
    for _ in range(10):
        next(batches)
    wall, cpu, num_batches = time.monotonic(), time.process_time(), 2 * NUM_PHOTOGRAPHS // 32
    for _ in range(num_batches):
        next(batches)
    num_images = num_batches * config.input.batch_size
    by_wall = num_images / (time.monotonic() - wall)
    by_cpu = num_images / (time.process_time() - cpu)
    print(
        f"\nInput alone, {image_size} pixels: {by_wall:.0f} images/s, {by_cpu:.0f} by CPU second "
        f"(target {TARGET_INPUT_RATE} a core at 299 pixels)\n"
        f"  {by_wall / trained:.0f} times what training consumes here (target {TARGET_INPUT_RATIO})"
    )


if __name__ == "__main__":
    sys.exit(main())
