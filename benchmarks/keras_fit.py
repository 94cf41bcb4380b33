"""Trains a network of ours by `keras.Model.fit`, and exports it at several points.

    python -m benchmarks.keras_fit --data=shards --output=fit --set train.samples=24000

`fit` reads our input, minimizes our loss and follows our learning rate, with Keras's own RMSprop
and averages. FOLDER/point-00 and so on are SavedModels of the averaged network; beside each stands
a .json with the images seen and the seconds of training, in which writing models is not counted.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import recipes
from model import config as config_module
from model import quiet, run_folder
from pipeline import metadata, schema


def main(argv=None):
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.keras_fit",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.keras_fit --data=shards --output=fit "
        "--set train.samples=24000",
    )
    recipes.add_recipe(parser)
    parser.add_argument("--output", required=True, type=Path, help="folder for the models")
    parser.add_argument("--seed", type=int, default=0, help="of the initial parameters (0)")
    parser.add_argument("--points", type=int, default=10, help="how often it is exported (10)")
    options = parser.parse_args(argv)
    quiet.start_tensorflow()
    fit(options)
    return 0


def fit(options):
    """Trains and exports."""
    import keras

    from model.input import forget_seed, training_dataset

    config = config_module.load_preset(options.preset, options.overrides)
    split = metadata.load_split(options.data, options.split)
    keras.utils.set_random_seed(options.seed)
    network = compiled(config, split, len(metadata.load_vocabulary(options.data)))
    forget_seed()
    dataset = training_dataset(config, split.shard_paths, split.shard_lengths)
    dataset = dataset.map(lambda images, targets: (images, targets[schema.LABELS]))
    steps = -(-config.train.samples // config.input.batch_size // options.points)
    export = exporter(options.output, steps * config.input.batch_size)
    # The averages stand in the network from the end of an epoch to the start of the next one.
    averages = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    network.fit(
        dataset, epochs=options.points, steps_per_epoch=steps, callbacks=[averages, export],
        shuffle=False, verbose=2,
    )  # fmt: skip
    steps *= options.points
    samples = steps * config.input.batch_size
    end = {"step": steps, "samples": samples, "seconds": export.seconds}
    run_folder.mark_completed(options.output, end)


def compiled(config, split, num_classes):
    """The network with Keras's optimizer, our loss and our learning rate."""
    import keras
    import tensorflow as tf

    from model import heads, losses, optimizers, zoo

    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            step = tf.cast(step, tf.int64)
            return optimizers.learning_rate(config, step, step * config.input.batch_size)

    def loss(labels, logits):
        labels = tf.cast(labels, tf.int64)  # Keras has made floats of them
        return losses.compute(config.loss, logits, {schema.LABELS: labels})

    bias = heads.prior_bias(split.class_counts, split.num_examples)
    network = zoo.build(config, num_classes, bias=bias, dtype=config.train.compute_dtype)
    settings = config.optimizer
    network.compile(
        optimizer=keras.optimizers.RMSprop(
            Rate(), rho=settings.rho, momentum=settings.momentum, epsilon=settings.epsilon,
            weight_decay=settings.weight_decay, use_ema=True, ema_momentum=config.train.ema_decay,
        ),
        loss=loss,
    )  # fmt: skip
    return network


def exporter(folder, samples_per_epoch):
    """A callback that exports the network when an epoch ends; `seconds` of training until then."""
    import keras

    class Export(keras.callbacks.Callback):
        seconds = 0.0

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.monotonic()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds += time.monotonic() - self.started
            path = folder / f"point-{epoch:02d}"
            self.model.export(path, verbose=False)
            point = {"seconds": self.seconds, "samples": (epoch + 1) * samples_per_epoch}
            path.with_suffix(".json").write_text(json.dumps(point))

    return Export()


if __name__ == "__main__":
    sys.exit(main())
