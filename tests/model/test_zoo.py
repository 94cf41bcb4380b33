"""Networks by name: their options in the configuration, and what a wrong one is told."""

import inspect

import keras
import numpy as np
import pytest

from model import config as config_module
from model import zoo
from model.config import ConfigError

SMALL = ["network.width=0.1", "input.image_size=32", "network.middle_modules=8"]


def _load(*overrides):
    return config_module.load_preset("demo", [*SMALL, *overrides])


def _parameters(build_fn):
    return inspect.signature(build_fn).parameters


def test_every_network_is_in_the_configuration():
    assert zoo.NETWORKS.keys() == config_module.NETWORK_OPTIONS.keys()


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_options_of_a_network_are_what_its_builder_takes_with_the_same_defaults(name):
    parameters = _parameters(zoo.NETWORKS[name])
    network = config_module.NetworkConfig(name=name)
    by_name = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY} - {"bias"}
    assert set(network.options()) == by_name
    for option, value in network.options().items():
        assert parameters[option].default == value


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("xception", ["small_stem=true", "residual=false", "channel_segments=4"]),
        ("inception_v3", ["small_stem=true", "dropout=0.5"]),
        ("vgg_separable", ["fully_connected=16", "intermediate_activation=elu"]),
    ],
)
def test_a_configured_network_is_built_with_its_options(name, options):
    config = _load(f"network.name={name}", *(f"network.{option}" for option in options))
    network = zoo.build(config, 3, bias=np.array([1.0, 2.0, 3.0], np.float32))
    assert network.name == name
    np.testing.assert_array_equal(network.get_layer("predictions").bias, [1, 2, 3])
    assert network(np.zeros((2, 32, 32, 3), np.float32)).shape == (2, 3)
    for option in options:
        layer, there = {
            "small_stem=true": ("block1_conv1" if name == "xception" else "conv2d", True),
            "residual=false": ("conv2d", False),
            "channel_segments=4": ("block2_sepconv1_spatial", True),
            "dropout=0.5": ("dropout", True),
            "fully_connected=16": ("fc2", True),
            "intermediate_activation=elu": ("block1_sepconv1_elu", True),
        }[option]
        assert (layer in {layer.name for layer in network.layers}) == there


def test_in_bfloat16_variables_and_scores_stay_in_float32():
    config = _load("network.name=inception_v3", "network.small_stem=true", "network.dropout=0.5")
    try:
        network = zoo.build(config, 3, dtype="bfloat16")
    finally:
        keras.config.set_dtype_policy("float32")
    assert {variable.dtype for variable in network.weights} == {"float32"}
    assert network.get_layer("mixed10").compute_dtype == "bfloat16"
    logits = network(np.zeros((2, 32, 32, 3), np.float32), training=True)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.name=resnet"], "There is no network 'resnet'. Known: xception, inception_v3"),
        (["network.name=inception_v2"], "Did you mean 'inception_v3'"),
        (
            ["network.name=inception_v3", "network.residual=false"],
            (
                "The network inception_v3 has no option residual. Received: False; leave it at "
                "True. Its options: width, fully_connected, dropout, batch_norm_momentum"
            ),
        ),
        (["network.name=vgg_separable", "network.middle_modules=2"], "no option middle_modules"),
        (["network.intermediate_activation=tanh"], "must be one of ('none', 'relu', 'elu')"),
        (["network.dropout=1.0"], "must be below 1. Received: 1.0"),
        (["network.channel_segments=-1"], "must not be negative. Received: -1"),
        (["network.fully_connected=-1"], "must not be negative. Received: -1"),
    ],
)
def test_an_unusable_network_is_refused_in_words(overrides, message):
    with pytest.raises(ConfigError) as error:
        _load(*overrides)
    assert message in str(error.value)


def test_images_too_small_for_a_network_are_refused_in_words():
    with pytest.raises(ConfigError, match=r"needs images of 75 pixels or more\. Received: 32"):
        zoo.build(_load("network.name=inception_v3"), 3)
