"""Schedules, RMSprop and SGD, worked by hand."""

import numpy as np
import pytest
import tensorflow as tf

from model import config as config_module
from model import optimizers


def _rate(step, samples, **optimizer):
    config = config_module.from_dict({"optimizer": optimizer, "train": {"samples": 1000}})
    return float(optimizers.learning_rate(config, tf.constant(step), tf.constant(samples)))


def test_the_papers_decay_counts_in_the_unit_that_the_preset_names():
    step, samples = 30_000_000, 960_000_000
    by_steps = _rate(step, samples, schedule_unit="steps")
    by_samples = _rate(step, samples, schedule_unit="samples")
    assert by_steps == pytest.approx(0.001 * 0.9**10)
    assert by_samples == pytest.approx(0.001 * 0.9**320)
    assert by_samples < 1e-17  # why the JFT preset counts steps


def test_a_staircase_holds_the_rate_between_two_decays():
    decay = {"decay_every": 100.0, "decay_rate": 0.5}
    assert _rate(0, 99, **decay) == pytest.approx(0.001)
    assert _rate(0, 100, **decay) == pytest.approx(0.0005)
    assert _rate(0, 250, **decay) == pytest.approx(0.00025)


def test_warmup_and_a_cosine_over_the_whole_run():
    run = {
        "schedule_unit": "run",
        "warmup": 0.1,
        "decay": "cosine",
        "decay_rate": 0.2,
        "decay_every": 1.0,
    }
    assert _rate(0, 0, **run) == 0.0
    assert _rate(0, 500, **run) == pytest.approx(0.001 * (0.2 + 0.8 * 0.5))
    assert _rate(0, 1000, **run) == pytest.approx(0.0002)
    assert _rate(0, 1500, **run) == pytest.approx(0.0002)
    # A twentieth of the run is half of the warm-up: cos(pi / 20) = 0.98769.
    assert _rate(0, 50, **run) == pytest.approx(0.001 * (0.2 + 0.8 * 0.993844) * 0.5, rel=1e-5)


def test_imagenets_rate_falls_every_two_epochs():
    config = config_module.load_preset("imagenet")
    two_epochs = 2 * 1_281_167  # images in the training set of ILSVRC 2012

    def rate(samples):
        return float(optimizers.learning_rate(config, tf.constant(7), tf.constant(samples)))

    assert rate(0) == rate(two_epochs - 1) == pytest.approx(0.045)
    assert rate(two_epochs) == pytest.approx(0.045 * 0.94)
    assert rate(config.train.samples) == pytest.approx(1.7e-4, rel=0.02)  # what its comment says


def test_two_sgd_steps_by_hand():
    config = config_module.OptimizerConfig(name="sgd", momentum=0.8)
    value, momentum = tf.Variable([1.0]), tf.Variable([0.0])
    for gradient, rate in ((2.0, 0.5), (-1.0, 0.25)):
        optimizers.apply(
            config, value, {"momentum": momentum}, tf.constant([gradient]), tf.constant(rate)
        )
    # Step 1: mom = 2;                 value = 1 - 0.5 * 2 = 0
    # Step 2: mom = 0.8 * 2 - 1 = 0.6; value = 0 - 0.25 * 0.6
    assert momentum.numpy()[0] == pytest.approx(0.6)
    assert value.numpy()[0] == pytest.approx(-0.15)


@pytest.mark.parametrize("name", optimizers.SLOTS)
def test_each_optimizer_takes_the_slots_that_it_names(name):
    config = config_module.from_dict({"optimizer": {"name": name}}).optimizer
    value = tf.Variable([1.0])
    slots = {slot: tf.Variable([0.0]) for slot in optimizers.SLOTS[name]}
    optimizers.apply(config, value, slots, tf.constant([1.0]), tf.constant(0.1))
    assert value.numpy()[0] < 1.0
    assert all(slot.numpy()[0] > 0.0 for slot in slots.values())


def test_two_rmsprop_steps_by_hand():
    config = config_module.OptimizerConfig(rho=0.9, momentum=0.8, epsilon=0.1)
    value, square, momentum = tf.Variable([1.0]), tf.Variable([0.0]), tf.Variable([0.0])
    for gradient in (2.0, -1.0):
        optimizers.apply_rmsprop(
            config, value, square, momentum, tf.constant([gradient]), tf.constant(0.5)
        )
    # Step 1: ms = 0.1 * 4 = 0.4;          mom = 0.5 * 2 / sqrt(0.5)
    # Step 2: ms = 0.9 * 0.4 + 0.1 = 0.46; mom = 0.8 * mom - 0.5 / sqrt(0.56)
    first = 1.0 / np.sqrt(0.5)
    second = 0.8 * first - 0.5 / np.sqrt(0.56)
    assert square.numpy()[0] == pytest.approx(0.46)
    assert momentum.numpy()[0] == pytest.approx(second, rel=1e-5)
    assert value.numpy()[0] == pytest.approx(1.0 - first - second, rel=1e-5)
