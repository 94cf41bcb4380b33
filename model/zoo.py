"""Every network by name, and building one from a configuration."""

import dataclasses

from model.config import ConfigError
from model.xception import xception

NETWORKS = {"xception": xception}


def build(config, num_classes, bias=None, dtype="float32"):
    """The configured network: a built Keras model from images to logits [b, num_classes].

    Args:
        bias: initial biases of the classifier, float [num_classes]; see heads.prior_bias.
        dtype: float32, or bfloat16 to compute in that with variables in float32.
    """
    import keras

    options = dataclasses.asdict(config.network)
    name = options.pop("name")
    if name not in NETWORKS:
        raise ConfigError(f"There is no network {name!r}. Known: {', '.join(NETWORKS)}.")
    keras.config.set_dtype_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
    return NETWORKS[name](num_classes, config.input.image_size, bias=bias, **options)
