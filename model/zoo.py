"""Every network by name, and building one from a configuration."""

from collections.abc import Callable

import keras

from model.config import ConfigError
from model.inception_v3 import inception_v3
from model.layers import BatchNormalization
from model.vgg_separable import vgg_separable
from model.xception import xception

NETWORKS: dict[str, Callable] = {
    "xception": xception,
    "inception_v3": inception_v3,
    "vgg_separable": vgg_separable,
}


def build(config, num_classes, bias=None, dtype="float32"):
    """The configured network: a built Keras model from images to logits [b, num_classes].

    Args:
        bias: initial biases of the classifier, float [num_classes]; see heads.prior_bias.
        dtype: float32, or bfloat16 to compute in that with variables in float32.

    Raises:
        ConfigError: the network cannot be built like this: the images are too small for it.
    """
    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
    build_fn = NETWORKS[config.network.name]
    try:
        network = build_fn(
            num_classes, config.input.image_size, bias=bias, **config.network.options()
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for layer in network.layers:
        if isinstance(layer, BatchNormalization):
            layer.synchronized = config.train.synchronized_batch_norm
    return network
