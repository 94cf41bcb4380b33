"""Presets, overrides, and what a wrong one is told."""

import pytest

from model import config as config_module
from model.config import ConfigError


@pytest.mark.parametrize("name", config_module.preset_names())
def test_every_preset_loads_and_survives_being_written_and_read(name, tmp_path):
    config = config_module.load_preset(name)
    (tmp_path / "config.toml").write_text(config_module.to_toml(config))
    assert config_module.read(tmp_path / "config.toml") == config


def test_the_jft_preset_holds_the_papers_numbers():
    config = config_module.load_preset("jft")
    assert config.network.middle_modules == 8  # figure 5
    assert config.input.image_size == 299  # figure 5
    assert config.optimizer.learning_rate == 0.001  # section 4.2
    assert config.optimizer.momentum == 0.9  # section 4.2
    assert config.optimizer.decay_rate == 0.9  # section 4.2
    assert config.optimizer.decay_every == 3_000_000  # section 4.2
    assert config.optimizer.weight_decay == 1e-5  # section 4.3
    assert config.train.samples == 30_000_000 * config.input.batch_size  # section 4.5.1


def test_the_imagenet_preset_holds_the_papers_numbers():
    config = config_module.load_preset("imagenet")
    assert config.network.dropout == 0.5  # section 4.3
    assert config.input.image_size == 299  # figure 5
    assert config.loss.name == "softmax_cross_entropy"
    assert config.optimizer.name == "sgd"  # section 4.2
    assert config.optimizer.learning_rate == 0.045  # section 4.2
    assert config.optimizer.momentum == 0.9  # section 4.2
    assert config.optimizer.decay_rate == 0.94  # section 4.2
    assert config.optimizer.decay_every == 2 * 1_281_167  # section 4.2: 2 epochs
    assert config.optimizer.weight_decay == 1e-5  # section 4.3
    assert config.train.samples == 3 * 86_400 * 28 * 32  # section 4.4, table 3


@pytest.mark.parametrize("base", ["jft", "imagenet"])
def test_inception_v3_is_trained_as_xception_is_with_another_weight_decay(base):
    differences = config_module.differences(
        config_module.load_preset(f"{base}_inception_v3"), config_module.load_preset(base)
    )
    assert differences == [  # sections 4.2 and 4.3
        "network.name: inception_v3, was xception",
        "optimizer.weight_decay: 4e-05, was 1e-05",
    ]


def test_overrides_are_parsed_as_their_fields_types():
    config = config_module.load_preset(
        "demo",
        ["optimizer.learning_rate=1", "train.pull_dtype=bfloat16", "input.flip=false"],
    )
    assert config.optimizer.learning_rate == 1.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.train.pull_dtype == "bfloat16"
    assert config.input.flip is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learningrate=1", "Did you mean 'learning_rate'"),
        ("optimiser.learning_rate=1", "Did you mean 'optimizer'"),
        ("optimizer.learning_rate", "section.field=value"),
        ("optimizer.learning_rate=fast", "must be a number. Received: 'fast'"),
        ("optimizer.learning_rate=0", "must be above zero. Received: 0.0"),
        ("optimizer.learning_rate=nan", "must be above zero. Received: nan"),
        ("train.ema_decay=1.5", "must be between 0 and 1. Received: 1.5"),
        ("train.samples=1.5", "must be an integer. Received: 1.5"),
        ("input.batch_size=true", "must be an integer. Received: True"),
        ("train.pull_dtype=float64", "must be one of"),
        ("input.min_crop_area=0", "must be above zero. Received: 0.0"),
        ("train.seed=-1", "must not be negative. Received: -1"),
        ("network.batch_norm_momentum=1.0", "must be below 1. Received: 1.0"),
        ("input.image_size=-1", "must be above zero. Received: -1"),
        ("input.max_crop_aspect=0.5", "must be 1 to 100. Received: 0.5"),
        ("input.interpolation=cubic", "must be one of ('bilinear', 'bicubic', 'area')"),
        ("loss.name=hinge", "must be one of ('sigmoid_cross_entropy', 'asymmetric'"),
        ("loss.unknown_weight=masked", "must be a number. Received: 'masked'"),
        ("loss.unknown_weight=2", "must be between 0 and 1. Received: 2.0"),
        ("loss.confidence=use", "must be one of ('ignore', 'weight', 'soft_target')"),
        ("loss.clip=1", "must be below 1. Received: 1.0"),
        ("loss.gamma=-1", "must not be negative. Received: -1.0"),
        ("loss.alpha=1.5", "must be between 0 and 1. Received: 1.5"),
        ("optimizer.name=adam", "must be one of ('rmsprop', 'sgd'). Received: 'adam'"),
        ("optimizer.decoupled_decay=1", "must be true or false. Received: 1"),
    ],
)
def test_an_unusable_override_is_refused_in_words(override, message):
    with pytest.raises(ConfigError) as error:
        config_module.load_preset("demo", [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.unknown_weight=0", "loss.unknown_weight must be 1 with loss.name=softmax"),
        ("loss.confidence=soft_target", "loss.confidence must be ignore or weight with loss.name"),
    ],
)
def test_what_softmax_cannot_do_is_refused_in_words(override, message):
    with pytest.raises(ConfigError, match=message):
        config_module.load_preset("demo", ["loss.name=softmax_cross_entropy", override])


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'demo'"):
        config_module.load_preset("dmeo")


def test_differences_name_the_fields_and_both_values():
    one = config_module.load_preset("demo", ["train.samples=10"])
    other = config_module.load_preset("demo", ["train.samples=20"])
    assert config_module.differences(one, other) == ["train.samples: 10, was 20"]


def test_the_paper_trains_jft_asynchronously_and_imagenet_synchronously():
    modes = {
        name: config_module.load_preset(name).train.mode for name in config_module.preset_names()
    }
    assert {name for name, mode in modes.items() if mode == "synchronous"} == {
        name for name in modes if name.startswith("imagenet")
    }
    with pytest.raises(ConfigError, match=r"must be false with train\.mode=asynchronous"):
        config_module.load_preset("jft", ["train.synchronized_batch_norm=true"])
