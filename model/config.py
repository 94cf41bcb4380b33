"""The configuration of a training run: one frozen dataclass a concern, presets, and overrides.

    config = load_preset("demo", overrides=["optimizer.learning_rate=0.002"])

A preset is a TOML file of `model/presets/`; what it leaves out keeps the default given here.
The resolved configuration is written into the run's folder and compared when the run is resumed.
"""

import dataclasses
import difflib
import tomllib
import typing
from pathlib import Path

import tomli_w

PRESETS_DIR = Path(__file__).parent / "presets"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what is wrong and what to do."""


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    name: str = "xception"  # a key of model.zoo.NETWORKS
    width: float = 1.0  # multiplies the filters of every layer
    middle_modules: int = 8  # repeats of the middle flow (figure 5)
    batch_norm_momentum: float = 0.99  # share of the moving statistics that a step keeps


@dataclasses.dataclass(frozen=True)
class InputConfig:
    image_size: int = 299  # pixels a side of what the network sees
    batch_size: int = 32  # images a step, on each worker
    min_crop_area: float = 0.08  # smallest share of an image that a training crop keeps
    flip: bool = True  # mirror half of the training images left to right
    eval_crop: float = 0.875  # share of the shorter side that the central crop keeps
    shuffle_buffer: int = 4096  # examples; the shards are in random order already
    decode_threads: int = 0  # threads that decode images on each worker; 0: one a core


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float = 0.001  # at the start (section 4.2)
    decay: str = "staircase"  # staircase: sudden, as in the paper; cosine: smooth, once
    decay_rate: float = 0.9  # the rate is multiplied by this ...
    decay_every: float = 3_000_000.0  # ... when so many `schedule_unit`s have passed
    warmup: float = 0.0  # `schedule_unit`s over which the rate rises from zero
    schedule_unit: str = "samples"  # samples, steps, or run (1.0 is the whole run)
    rho: float = 0.9  # how much of the mean squared gradient a step keeps
    momentum: float = 0.9  # section 4.2
    epsilon: float = 1.0  # added to the mean squared gradient, inside the root
    weight_decay: float = 1e-5  # L2 on every kernel (section 4.3)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    samples: int = 960_000_000  # images to train on in all; 30M steps of 32 (section 4.5.1)
    steps_per_closure: int = 8  # steps a worker takes for one message from the chief
    ema_decay: float = 0.9999  # Polyak averages (section 4.2); ramped, see parameter_store
    wire_dtype: str = "bfloat16"  # parameters and gradients between worker and ps
    compute_dtype: str = "float32"  # float32, or bfloat16 with float32 variables
    checkpoint_every: float = 600.0  # seconds between checkpoints
    keep_checkpoints: int = 5  # the newest ones
    log_every: float = 10.0  # seconds between progress lines
    stall_timeout: float = 600.0  # seconds without a single step before the chief gives up
    seed: int = 0  # of the initial parameters


@dataclasses.dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    input: InputConfig = InputConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()


_CHOICES = {
    "optimizer.decay": ("staircase", "cosine"),
    "optimizer.schedule_unit": ("samples", "steps", "run"),
    "train.wire_dtype": ("float32", "bfloat16"),
    "train.compute_dtype": ("float32", "bfloat16"),
}
_POSITIVE = (
    "network.width",
    "input.image_size",
    "input.batch_size",
    "input.shuffle_buffer",
    "input.min_crop_area",
    "input.eval_crop",
    "optimizer.learning_rate",
    "optimizer.decay_every",
    "train.samples",
    "train.steps_per_closure",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
    "train.stall_timeout",
)
_BELOW_ONE = ("network.batch_norm_momentum",)  # at 1 the statistics would never move
_SHARES = (  # at least 0, at most 1
    "network.batch_norm_momentum",
    "input.min_crop_area",
    "input.eval_crop",
    "optimizer.decay_rate",
    "optimizer.rho",
    "optimizer.momentum",
    "train.ema_decay",
)
_NOT_NEGATIVE = (
    "network.middle_modules",
    "input.decode_threads",
    "train.seed",
    "optimizer.warmup",
    "optimizer.weight_decay",
    "optimizer.epsilon",
)


def preset_names():
    """The presets there are, sorted."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.toml"))


def load_preset(name, overrides=()):
    """The preset's Config with `section.field=value` overrides applied; ConfigError if unusable."""
    if name not in preset_names():
        raise ConfigError(_unknown("preset", name, preset_names()))
    values = tomllib.loads((PRESETS_DIR / f"{name}.toml").read_text())
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, field = key.strip().partition(".")
        if not (equals and dot and field):
            raise ConfigError(
                "--set takes section.field=value, for example optimizer.learning_rate=0.001. "
                f"Received: {override!r}."
            )
        values.setdefault(section, {})[field] = _parse_value(value.strip())
    return from_dict(values)


def read(path):
    """The Config in a TOML file."""
    path = Path(path)
    try:
        return from_dict(tomllib.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, ConfigError) as error:
        raise ConfigError(f"{path} is no usable configuration: {error}") from error


def to_toml(config):
    """The configuration as TOML, every field of it."""
    return tomli_w.dumps(dataclasses.asdict(config))


def differences(one, other):
    """The fields in which two configurations differ, as `section.field: a, was b` lines."""
    lines = []
    for section, fields in dataclasses.asdict(one).items():
        before = getattr(other, section)
        for field, value in fields.items():
            if value != getattr(before, field):
                lines.append(f"{section}.{field}: {value}, was {getattr(before, field)}")
    return lines


def from_dict(values):
    """A checked Config from {section: {field: value}}; an unknown key names the nearest one."""
    sections = {field.name: field.type for field in dataclasses.fields(Config)}
    for section, fields in values.items():
        if section not in sections:
            raise ConfigError(_unknown("section", section, list(sections)))
        if not isinstance(fields, dict):
            raise ConfigError(f"{section} must be a table of fields. Received: {fields!r}.")
    config = Config(
        **{name: _section(name, kind, values.get(name, {})) for name, kind in sections.items()}
    )
    _check_values(config)
    return config


def _section(name, kind, values):
    types_by_field = typing.get_type_hints(kind)
    checked = {}
    for field, value in values.items():
        if field not in types_by_field:
            raise ConfigError(_unknown(f"field of [{name}]", field, list(types_by_field)))
        wanted = types_by_field[field]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise ConfigError(f"{name}.{field} must be {_noun(wanted)}. Received: {value!r}.")
        checked[field] = value
    return kind(**checked)


def _check_values(config):
    for key in _POSITIVE:
        _check(config, key, lambda value: 0 < value < float("inf"), "must be above zero")
    for key in _NOT_NEGATIVE:
        _check(config, key, lambda value: 0 <= value < float("inf"), "must not be negative")
    for key in _SHARES:
        _check(config, key, lambda value: 0 <= value <= 1, "must be between 0 and 1")
    for key in _BELOW_ONE:
        _check(config, key, lambda value: value < 1, "must be below 1")
    for key, choices in _CHOICES.items():
        _check(config, key, lambda value, c=choices: value in c, f"must be one of {choices}")


def _check(config, key, is_fine, rule):
    section, field = key.split(".")
    value = getattr(getattr(config, section), field)
    if not is_fine(value):
        raise ConfigError(f"{key} {rule}. Received: {value!r}.")


def _parse_value(text):
    """A TOML value; a bare word is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _noun(kind):
    nouns = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    return nouns[kind]


def _unknown(what, name, known):
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
    return f"There is no {what} {name!r}. {hint}Known: {', '.join(known)}."
