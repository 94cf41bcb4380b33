"""The configuration of a training run: one frozen dataclass a concern, presets, and overrides.

    config = load_preset("demo", overrides=["optimizer.learning_rate=0.002"])

A preset is a TOML file of `model/presets/`. What it leaves out keeps the value of the preset that
its `base` names, or the default given here. The resolved configuration is written into the run's
folder and compared when the run is resumed.
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


_EVERY_NETWORK = ("width", "fully_connected", "dropout", "batch_norm_momentum")
_SEPARABLE = ("intermediate_activation", "channel_segments")
# The options of each network of model.zoo: what its builder takes by name.
NETWORK_OPTIONS = {
    "xception": (*_EVERY_NETWORK, *_SEPARABLE, "middle_modules", "residual", "small_stem"),
    "inception_v3": (*_EVERY_NETWORK, "small_stem"),
    "vgg_separable": (*_EVERY_NETWORK, *_SEPARABLE),
}


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    name: str = "xception"  # a key of model.zoo.NETWORKS
    width: float = 1.0  # multiplies the filters of every layer
    middle_modules: int = 8  # repeats of the middle flow (figure 5)
    residual: bool = True  # residual connections; figure 9 compares with none
    # none, relu or elu, between the two parts of a separable convolution (section 4.7, figure 10)
    intermediate_activation: str = "none"
    # In how many segments of the channels spatial convolutions are done (sections 1.2 and 5): 1 is
    # a regular convolution, 0 one a channel, as in the paper.
    channel_segments: int = 0
    small_stem: bool = False  # shrinks half as much, for images under 100 pixels
    fully_connected: int = 0  # units of two layers before the classifier; 4096 in figures 7, 8
    dropout: float = 0.0  # before the classifier; 0.5 on ImageNet, none on JFT (section 4.3)
    batch_norm_momentum: float = 0.99  # share of the moving statistics that a step keeps

    def options(self):
        """{option: value} for the network's builder."""
        return {option: getattr(self, option) for option in NETWORK_OPTIONS[self.name]}


@dataclasses.dataclass(frozen=True)
class InputConfig:
    image_size: int = 299  # pixels a side of what the network sees
    batch_size: int = 32  # images a step, on each worker
    min_crop_area: float = 0.08  # smallest share of an image that a training crop keeps
    max_crop_aspect: float = 4 / 3  # longest side over shortest of a training crop
    flip: bool = True  # mirror half of the training images left to right
    color_distortion: bool = False  # of training images; see model.augment
    interpolation: str = "bilinear"  # of crops to image_size: bilinear, bicubic or area
    eval_crop: float = 0.875  # share of the shorter side that the central crop keeps
    shuffle_buffer: int = 4096  # examples; the shards are in random order already
    decode_threads: int = 0  # threads that decode images on each worker; 0: one a core
    max_damaged_records: int = 100  # of the shards: so many are left out, one more ends the run
    # Of shards in an object store: the folder of each host that holds copies of those that are
    # read; none is one below the folder for temporary files.
    cache_dir: str = ""
    cache_bytes: int = 16_000_000_000  # what the copies may have together, on each host
    fetch_timeout: float = 300.0  # seconds after which a shard that does not come is given up


@dataclasses.dataclass(frozen=True)
class LossConfig:
    name: str = "sigmoid_cross_entropy"  # or asymmetric, focal; softmax_cross_entropy: one label
    # What counts of a class that is neither a label nor a verified negative of an image: 1 takes
    # it for a negative, 0 masks it, and between them a negative counts for so much.
    unknown_weight: float = 1.0
    # Of labels. ignore: all are certain; weight: a label counts for its confidence;
    # soft_target: its target is its confidence, as distillation has it.
    confidence: str = "ignore"
    gamma_positive: float = 0.0  # asymmetric: focusing of positives (Ridnik et al. 2021)
    gamma_negative: float = 4.0  # asymmetric: focusing of negatives
    clip: float = 0.05  # asymmetric: negatives of a lower probability cost nothing
    gamma: float = 2.0  # focal: focusing (Lin et al. 2017)
    alpha: float = 0.25  # focal: weight of positives; negatives have 1 - alpha


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: str = "rmsprop"  # rmsprop, or sgd: gradient descent with momentum (section 4.2)
    learning_rate: float = 0.001  # at the start (section 4.2)
    decay: str = "staircase"  # staircase: sudden, as in the paper; cosine: smooth, once
    decay_rate: float = 0.9  # the rate is multiplied by this ...
    decay_every: float = 3_000_000.0  # ... when so many `schedule_unit`s have passed
    warmup: float = 0.0  # `schedule_unit`s over which the rate rises from zero
    schedule_unit: str = "samples"  # samples, steps, or run (1.0 is the whole run)
    momentum: float = 0.9  # section 4.2
    rho: float = 0.9  # rmsprop: how much of the mean squared gradient a step keeps
    epsilon: float = 1.0  # rmsprop: added to the mean squared gradient, inside the root
    weight_decay: float = 1e-5  # on every kernel, and on nothing else (section 4.3)
    decoupled_decay: bool = False  # false: L2, a part of the gradient; true: beside it, as in AdamW
    max_gradient_norm: float = 0.0  # gradients are scaled down to this global norm; 0: never


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    # asynchronous: a cluster has parameter servers; synchronous: it has none (section 4.4)
    mode: str = "asynchronous"
    # synchronous: batch normalization over the images of all processes, not over each one's own
    synchronized_batch_norm: bool = False
    samples: int = 960_000_000  # images to train on in all; 30M steps of 32 (section 4.5.1)
    steps_per_closure: int = 8  # steps a worker takes for one message from the chief
    ema_decay: float = 0.9999  # Polyak averages (section 4.2); ramped, see parameter_store
    pull_dtype: str = "bfloat16"  # parameters on their way from ps to worker
    push_dtype: str = "bfloat16"  # gradients on their way from worker to ps
    compute_dtype: str = "float32"  # float32, or bfloat16 with float32 variables
    micro_batches: int = 1  # parts that a batch is computed in, one after the other, to save memory
    checkpoint_every: float = 600.0  # seconds between checkpoints
    keep_checkpoints: int = 5  # the newest ones
    keep_hourly: float = 0.0  # and the first of each so many hours of training; 0: none
    log_every: float = 10.0  # seconds between progress lines
    # Seconds that chief and servers wait for each other when they start.
    start_timeout: float = 300.0
    # Seconds that a start waits for the next worker to come when no ps is missing any more; then it
    # goes on without those that have not.
    gather_timeout: float = 120.0
    # Seconds of silence after which a worker is replaced, and anything else given up: more than the
    # slowest worker takes for a step.
    stall_timeout: float = 600.0
    # Seconds that a process which is told to end has: a ps waits so long for the chief to read what
    # it holds, and the launcher for the chief to save.
    grace: float = 20.0
    seed: int = 0  # of the initial parameters

    @property
    def first_timeout(self) -> float:
        """Seconds of silence allowed until the first step: a start has much to do."""
        return max(self.stall_timeout, self.start_timeout)


@dataclasses.dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    input: InputConfig = InputConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()


_CHOICES = {
    "network.intermediate_activation": ("none", "relu", "elu"),
    "input.interpolation": ("bilinear", "bicubic", "area"),
    "loss.name": ("sigmoid_cross_entropy", "asymmetric", "focal", "softmax_cross_entropy"),
    "loss.confidence": ("ignore", "weight", "soft_target"),
    "optimizer.name": ("rmsprop", "sgd"),
    "optimizer.decay": ("staircase", "cosine"),
    "optimizer.schedule_unit": ("samples", "steps", "run"),
    "train.mode": ("asynchronous", "synchronous"),
    "train.pull_dtype": ("float32", "bfloat16"),
    "train.push_dtype": ("float32", "bfloat16"),
    "train.compute_dtype": ("float32", "bfloat16"),
}
_POSITIVE = (
    "network.width",
    "input.image_size",
    "input.batch_size",
    "input.shuffle_buffer",
    "input.cache_bytes",
    "input.fetch_timeout",
    "input.min_crop_area",
    "input.eval_crop",
    "optimizer.learning_rate",
    "optimizer.decay_every",
    "train.samples",
    "train.steps_per_closure",
    "train.micro_batches",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.log_every",
    "train.start_timeout",
    "train.gather_timeout",
    "train.stall_timeout",
    "train.grace",
)
_BELOW_ONE = (
    "network.batch_norm_momentum",  # at 1 the statistics would never move
    "network.dropout",
    "loss.clip",  # at 1 no negative would ever cost anything
)
_SHARES = (  # at least 0, at most 1
    "network.batch_norm_momentum",
    "network.dropout",
    "input.min_crop_area",
    "input.eval_crop",
    "loss.unknown_weight",
    "loss.clip",
    "loss.alpha",
    "optimizer.decay_rate",
    "optimizer.rho",
    "optimizer.momentum",
    "train.ema_decay",
)
_NOT_NEGATIVE = (
    "network.middle_modules",
    "network.channel_segments",
    "network.fully_connected",
    "input.decode_threads",
    "loss.gamma_positive",
    "loss.gamma_negative",
    "loss.gamma",
    "input.max_damaged_records",
    "train.keep_hourly",
    "train.seed",
    "optimizer.max_gradient_norm",
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
    values = _preset_values(name)
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


def _preset_values(name):
    """{section: {field: value}} of a preset and of the one that its `base` names, under it."""
    values = tomllib.loads((PRESETS_DIR / f"{name}.toml").read_text())
    base = values.pop("base", None)
    merged = _preset_values(base) if base else {}
    for section, fields in values.items():
        merged.setdefault(section, {}).update(fields)
    return merged


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


def _check_network(network):
    if network.name not in NETWORK_OPTIONS:
        raise ConfigError(_unknown("network", network.name, list(NETWORK_OPTIONS)))
    options = NETWORK_OPTIONS[network.name]
    for field in dataclasses.fields(network):
        value = getattr(network, field.name)
        if field.name not in ("name", *options) and value != field.default:
            raise ConfigError(
                f"The network {network.name} has no option {field.name}. Received: {value!r}; "
                f"leave it at {field.default!r}. Its options: {', '.join(options)}."
            )


def _check_values(config):
    _check_network(config.network)
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
    _check(config, "input.max_crop_aspect", lambda value: 1 <= value < 100, "must be 1 to 100")
    batch_size = config.input.batch_size
    _check(
        config,
        "train.micro_batches",
        lambda value: batch_size % value == 0,
        f"must divide input.batch_size={batch_size}",
    )
    if config.loss.name == "softmax_cross_entropy":
        _check_single_label_loss(config)
    if config.train.mode == "asynchronous":
        rule = "must be false with train.mode=asynchronous, where no two workers compute together"
        _check(config, "train.synchronized_batch_norm", lambda value: not value, rule)


def _check_single_label_loss(config):
    rule = "with loss.name=softmax_cross_entropy, where every image has its one label"
    _check(config, "loss.unknown_weight", lambda value: value == 1, f"must be 1 {rule}")
    _check(
        config,
        "loss.confidence",
        lambda value: value != "soft_target",
        f"must be ignore or weight {rule}",
    )


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
