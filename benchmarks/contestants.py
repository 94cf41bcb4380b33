"""The same training step by this project and by its peers, taken in turns in one process.

A contestant trains one network on one batch that stays in memory, with all that its step has in the
paper's recipe for JFT: sigmoid cross-entropy, RMSprop with momentum, weight decay, Polyak averages.
The peers are the networks of keras.applications and of tf_keras (Keras 2, whose batch normalization
is one fused kernel too), trained by their own `fit`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from model import config as config_module

PRECISIONS = ("float32", "bfloat16")
# Networks that every contestant has, and what keras.applications calls them.
NETWORKS = {"xception": "Xception", "inception_v3": "InceptionV3"}
LABELS_PER_IMAGE = 5


class Setting(NamedTuple):
    """What all contestants of a run have in common."""

    image_size: int  # pixels a side
    batch_size: int  # images a step
    num_classes: int
    precision: str  # float32, or bfloat16 with float32 variables


class Contestant(NamedTuple):
    """A network with its trainer."""

    name: str
    num_parameters: int  # trainable ones
    take_steps: Callable[[int], Any]


class Rate(NamedTuple):
    """Medians over the rounds."""

    steps_per_second: float
    cpu_seconds: float  # a step, of all threads


def add_arguments(parser: argparse.ArgumentParser, precisions: Sequence[str]) -> None:
    """Adds the options of a Setting, with these precisions by default, and of `measure`."""
    add = parser.add_argument
    add("--image_size", type=int, default=299, help="pixels a side (299)")
    add("--batch_size", type=int, default=8, help="images a step (8)")
    add("--num_classes", type=int, default=1000, help="(1000, as in table 3)")
    add(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=precisions,
        help=f"({' '.join(precisions)})",
    )
    add("--rounds", type=int, default=5, help="the median is printed (5)")
    add("--steps", type=int, default=3, help="of each in a round (3)")


def ours(network_name: str, setting: Setting) -> Contestant:
    """This project's network, step and parameter store, in this process."""
    import tensorflow as tf

    from model.parameter_store import ParameterStore
    from model.training_step import training_step
    from pipeline import schema

    config = _config(network_name, setting)
    network = our_network(network_name, setting)
    store = ParameterStore(config, network)
    images, labels = batch(setting)
    targets = {schema.LABELS: labels}
    take_step = tf.function(training_step, autograph=False)

    def take_steps(count: int) -> None:
        for _ in range(count):
            take_step(config, network, store, images, targets)

    return Contestant("ours", _num_trainable(network), take_steps)


def our_network(network_name: str, setting: Setting) -> Any:
    """The Keras model that `ours` trains."""
    from model import zoo

    config = _config(network_name, setting)
    return zoo.build(config, setting.num_classes, dtype=setting.precision)


def keras_applications(network_name: str, setting: Setting) -> Contestant:
    """keras.applications' network, trained by `keras.Model.fit`."""
    import keras

    policy = "mixed_bfloat16" if setting.precision == "bfloat16" else "float32"
    keras.config.set_dtype_policy(policy)
    return _with_fit("keras", keras, network_name, setting)


def tf_keras(network_name: str, setting: Setting) -> Contestant:
    """tf_keras.applications' network, trained by `tf_keras.Model.fit`."""
    import tf_keras

    policy = "mixed_bfloat16" if setting.precision == "bfloat16" else "float32"
    tf_keras.mixed_precision.set_global_policy(policy)
    return _with_fit("tf_keras", tf_keras, network_name, setting)


def _with_fit(name: str, keras: Any, network_name: str, setting: Setting) -> Contestant:
    import tensorflow as tf

    network = getattr(keras.applications, NETWORKS[network_name])(
        weights=None,
        input_shape=(setting.image_size, setting.image_size, 3),
        classes=setting.num_classes,
        classifier_activation=None,
    )
    network.compile(
        optimizer=keras.optimizers.RMSprop(
            0.001, rho=0.9, momentum=0.9, epsilon=1.0, weight_decay=1e-5,
            use_ema=True, ema_momentum=0.9999,
        ),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )  # fmt: skip
    images, labels = batch(setting)
    dense = tf.reduce_max(tf.one_hot(labels, setting.num_classes), axis=1)
    dataset = tf.data.Dataset.from_tensors((images, dense)).repeat()
    return Contestant(
        name,
        _num_trainable(network),
        lambda count: network.fit(
            dataset, epochs=1, steps_per_epoch=count, shuffle=False, verbose=0
        ),
    )


def measure(contestants: list[Contestant], rounds: int, steps: int) -> dict[str, Rate]:
    """Rates by name. Each takes `steps` a round, in turns, after one round that is not counted."""
    walls: dict[str, list[float]] = {each.name: [] for each in contestants}
    cpus: dict[str, list[float]] = {each.name: [] for each in contestants}
    for round_number in range(rounds + 1):
        for each in contestants:
            wall, cpu = time.monotonic(), time.process_time()
            each.take_steps(steps if round_number else 1)  # the first one traces
            if round_number:
                walls[each.name].append((time.monotonic() - wall) / steps)
                cpus[each.name].append((time.process_time() - cpu) / steps)
    return {
        name: Rate(1 / statistics.median(walls[name]), statistics.median(cpus[name]))
        for name in walls
    }


def _config(network_name: str, setting: Setting) -> config_module.Config:
    return config_module.load_preset(
        "jft",
        [
            f"network.name={network_name}",
            f"input.image_size={setting.image_size}",
            f"input.batch_size={setting.batch_size}",
            f"train.compute_dtype={setting.precision}",
        ],
    )


def batch(setting: Setting) -> tuple[Any, Any]:
    """(images, label ids): noise."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    shape = (setting.batch_size, setting.image_size, setting.image_size, 3)
    images = tf.constant(random.uniform(-1, 1, shape), tf.float32)
    labels = random.permuted(
        np.tile(np.arange(setting.num_classes), (setting.batch_size, 1)), axis=1
    )[:, :LABELS_PER_IMAGE]
    return images, tf.constant(labels, tf.int64)


def _num_trainable(network: Any) -> int:
    return sum(int(np.prod(variable.shape)) for variable in network.trainable_variables)
