"""The store's layout, placement and arithmetic, worked out in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model import config as config_module
from model import parameter_layout, zoo
from model.checkpoint import CheckpointError
from model.parameter_layout import Layout, Tensor, place
from model.parameter_store import ParameterStore, Pulled


@pytest.fixture(scope="module")
def config():
    return config_module.load_preset(
        "demo",
        [
            "optimizer.learning_rate=0.001",
            "optimizer.weight_decay=0.5",
            "optimizer.warmup=0",
            "train.ema_decay=0.9",
        ],
    )


def _network():
    """Two kernels, their biases, and batch normalization's four vectors."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(3, 2, name="conv")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5, name="head")(x))


def test_kernels_are_decayed_and_nothing_else_is():
    layout = Layout.of(_network())
    assert {t.path for t in layout.decayed} == {"conv/kernel", "head/kernel"}
    assert {t.path for t in layout.plain} == {"conv/bias", "bn/gamma", "bn/beta", "head/bias"}
    assert {t.path for t in layout.statistics} == {"bn/moving_mean", "bn/moving_variance"}


def test_flatten_and_unflatten_are_inverse():
    network = _network()
    layout = Layout.of(network)
    values = {v.path: np.asarray(v) for v in network.variables}
    restored = layout.unflatten(layout.flatten(values))
    assert restored.keys() == values.keys()
    for path, value in values.items():
        np.testing.assert_array_equal(restored[path], value)


@pytest.mark.parametrize("num_ps", range(1, 17))
def test_xception_with_17000_classes_is_spread_evenly(num_ps):
    layout = Layout(
        # 22.9M parameters less the head of 1,000 classes, and the head of 17,000.
        decayed=(Tensor("base", (20_752_424,)), Tensor("head/kernel", (2048, 17_000))),
        plain=(Tensor("gammas", (54_528,)), Tensor("head/bias", (17_000,))),
        statistics=(Tensor("moving", (54_528,)),),
    )
    placements = place(layout, [f"ps{i}" for i in range(num_ps)])
    loads = {}
    for placement in placements:
        loads[placement.device] = loads.get(placement.device, 0) + placement.size
    assert len(loads) == num_ps
    assert max(loads.values()) / min(loads.values()) <= 1.1
    assert sum(loads.values()) == 20_752_424 + 2048 * 17_000 + 17_000 + 2 * 54_528
    assert max(p.size for p in placements) <= parameter_layout.MAX_BLOCK


def test_one_push_is_decayed_rmsprop_with_polyak_averages_and_added_statistics(config):
    network = _network()
    store = ParameterStore(config, network)
    before = store.export()["parameters"]
    random = np.random.default_rng(0)
    gradients = {
        v.path: random.normal(size=v.shape).astype(np.float32) for v in network.trainable_variables
    }
    pulled = store.pull()
    np.testing.assert_array_equal(pulled.trainable[0], before["conv/kernel"])
    store.push(
        pulled,
        [tf.constant(gradients[v.path]) for v in network.trainable_variables],
        [0.9 * statistic + 0.1 * 2.5 for statistic in pulled.statistics],  # momentum 0.9
        tf.constant(32, tf.int64),
        tf.constant(7.0),
    )
    after = store.export()

    o, rate = config.optimizer, 0.001
    for path, gradient in gradients.items():
        if path.endswith("kernel"):
            gradient = gradient + 0.5 * before[path]
        mean_square = (1 - o.rho) * gradient**2
        expected = before[path] - rate * gradient / np.sqrt(mean_square + o.epsilon)
        np.testing.assert_allclose(after["parameters"][path], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(after["mean_square"][path], mean_square, rtol=1e-5)
        # At step 0 the ramp gives min(0.9, 1 / 10): the average moves 9/10 of the way.
        average = before[path] + 0.9 * (expected - before[path])
        np.testing.assert_allclose(after["ema"][path], average, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        after["parameters"]["bn/moving_mean"], 0.9 * before["bn/moving_mean"] + 0.25, rtol=1e-5
    )
    assert store.progress() == (1, 32, 7.0, 0.0)


def _push_statistics(store, pulled, batch):
    """Pushes what a worker makes of a batch whose means and variances are all `batch`."""
    zeros = [tf.zeros_like(value) for value in pulled.trainable]
    statistics = [0.9 * old + 0.1 * batch for old in pulled.statistics]  # the demo's momentum
    store.push(pulled, zeros, statistics, tf.constant(8, tf.int64), tf.constant(0.0))


def test_statistics_move_toward_each_workers_batch_from_where_they_are(config):
    store = ParameterStore(config, _network())
    pulls = [store.pull(), store.pull()]  # both start from a mean of 0
    _push_statistics(store, pulls[0], 10.0)  # 0.9 * 0 + 0.1 * 10 = 1
    _push_statistics(store, pulls[1], 100.0)  # 0.9 * 1 + 0.1 * 100 = 10.9
    mean = store.export()["parameters"]["bn/moving_mean"]
    np.testing.assert_allclose(mean, 10.9, rtol=1e-5)
    assert store.progress()[:2] == (2, 16)
    assert store.progress().staleness_sum == 1.0  # the second push was one step behind


def test_many_workers_that_start_together_do_not_make_a_variance_negative(config):
    store = ParameterStore(config, _network())
    for pulled in [store.pull() for _ in range(30)]:  # of batches without any variance
        _push_statistics(store, pulled, 0.0)
    variance = store.export()["parameters"]["bn/moving_variance"]
    np.testing.assert_allclose(variance, 0.9**30, rtol=1e-3)


def test_what_is_exported_restores_into_another_store_over_other_devices(config, monkeypatch):
    monkeypatch.setattr(parameter_layout, "MIN_BLOCK", 1)
    network = _network()
    one = ParameterStore(config, network)
    pulled = one.pull()
    one.push(
        pulled,
        [tf.ones_like(value) for value in pulled.trainable],
        pulled.statistics,
        tf.constant(3, tf.int64),
        tf.constant(1.0),
    )
    state = one.export()
    other = ParameterStore(config, _network(), ["/device:CPU:0", "/cpu:0"])
    other.restore(state)
    restored = other.export()
    assert restored["step"] == 1
    assert restored["samples"] == 3
    for kind in ("parameters", "ema", "mean_square", "momentum"):
        assert restored[kind].keys() == state[kind].keys()
        for path, value in state[kind].items():
            np.testing.assert_array_equal(restored[kind][path], value)


def _push_ones(store):
    pulled = store.pull()
    gradients = [tf.ones_like(value) for value in pulled.trainable]
    store.push(pulled, gradients, pulled.statistics, tf.constant(3, tf.int64), tf.constant(1.0))


@pytest.mark.parametrize("decoupled", [False, True])
def test_with_sgd_a_store_keeps_momentum_alone(decoupled):
    config = config_module.from_dict(
        {
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.5,
                "weight_decay": 0.25,
                "decoupled_decay": decoupled,
            }
        }
    )
    store = ParameterStore(config, _network())
    before = store.export()["parameters"]
    _push_ones(store)
    _push_ones(store)
    state = store.export()
    assert state["mean_square"] == {}

    # A bias sees gradients of 1: steps of 0.1 and 0.1 * (0.5 + 1).
    np.testing.assert_allclose(
        state["parameters"]["head/bias"], before["head/bias"] - 0.25, rtol=1e-5
    )
    kernel, momentum = before["head/kernel"], 0.0
    for _ in range(2):
        momentum = 0.5 * momentum + 1.0 + (0.0 if decoupled else 0.25 * kernel)
        shrunk = kernel * (1 - 0.1 * 0.25) if decoupled else kernel
        kernel = shrunk - 0.1 * momentum
    np.testing.assert_allclose(state["parameters"]["head/kernel"], kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        state["momentum"]["head/kernel"], np.broadcast_to(momentum, kernel.shape), rtol=1e-5
    )


def test_another_optimizers_slots_are_left_and_its_own_restored(config):
    one = ParameterStore(config, _network())
    _push_ones(one)
    state = one.export()
    sgd = config_module.from_dict({"optimizer": {"name": "sgd"}})
    other = ParameterStore(sgd, _network())
    other.restore(state)
    restored = other.export()
    np.testing.assert_array_equal(
        restored["parameters"]["head/bias"], state["parameters"]["head/bias"]
    )
    assert not restored["momentum"]["head/bias"].any()

    _push_ones(other)
    again = ParameterStore(sgd, _network())
    again.restore(other.export())
    assert again.export()["momentum"]["head/bias"].all()


@pytest.mark.parametrize("kind", ["parameters", "ema", "momentum"])
@pytest.mark.parametrize(
    ("renamed", "shape", "said"),
    [
        (
            "conv/kernels",
            None,
            r"2 of its \w+ differ .*: conv/kernel is \(.*\) here and nothing there",
        ),
        (None, (1,), r"1 of its \w+ differ .*: conv/kernel is \(.*\) here and \(1,\) there"),
        (None, None, r"1 of its \w+ differ .*: conv/kernel is \(.*\) here and nothing there"),
    ],
)
def test_a_tensor_of_another_name_or_shape_is_refused_and_nothing_is_restored(
    config, kind, renamed, shape, said
):
    one, other = ParameterStore(config, _network()), ParameterStore(config, _network())
    _push_ones(one)
    state, before = one.export(), other.export()
    tensor = state[kind].pop("conv/kernel")
    if renamed:
        state[kind][renamed] = tensor
    if shape:
        state[kind]["conv/kernel"] = np.zeros(shape, np.float32)
    with pytest.raises(CheckpointError, match=f"step 1 is of another network: {said}"):
        other.restore(state)
    np.testing.assert_equal(other.export(), before)


def test_over_a_bfloat16_wire_parameters_and_gradients_are_rounded_and_statistics_are_not():
    config = config_module.load_preset(
        "demo", ["train.pull_dtype=bfloat16", "train.push_dtype=bfloat16"]
    )
    network = _network()
    store = ParameterStore(config, network, ["/device:CPU:0"])
    exact = store.export()["parameters"]
    pulled = store.pull()
    kernel = exact["conv/kernel"]
    rounded = tf.cast(tf.cast(kernel, tf.bfloat16), tf.float32).numpy()
    assert not np.array_equal(kernel, rounded)
    np.testing.assert_array_equal(pulled.trainable[0], rounded)
    np.testing.assert_array_equal(pulled.statistics[0], exact["bn/moving_mean"])


def test_pulling_gives_tensors_in_the_networks_order(config):
    network = zoo.build(config, 7)
    pulled = ParameterStore(config, network).pull()
    assert isinstance(pulled, Pulled)
    for value, variable in zip(pulled.trainable, network.trainable_variables, strict=True):
        np.testing.assert_array_equal(value, np.asarray(variable))
    for value, variable in zip(pulled.statistics, network.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(value, np.asarray(variable))


def test_a_bytes_line_tells_what_a_step_moves():
    config = config_module.load_preset(
        "demo", ["train.pull_dtype=bfloat16", "train.push_dtype=bfloat16"]
    )
    network = _network()
    lines = ParameterStore(config, network, ["/device:CPU:0"]).describe()
    # 24 + 3 + 6 + 15 + 5 trainable values of 2 bytes and 6 statistics of 4, both ways.
    assert sum(int(np.prod(v.shape)) for v in network.trainable_variables) == 53
    assert "a step moves 0.0 MB (pull 0.0 as bfloat16, push 0.0 as bfloat16)" in lines


def test_each_way_over_the_wire_has_its_type():
    config = config_module.load_preset(
        "demo",
        ["train.pull_dtype=float32", "train.push_dtype=bfloat16", "optimizer.weight_decay=0"],
    )
    store = ParameterStore(config, _network(), ["/device:CPU:0"])
    exact = store.export()["parameters"]
    pulled = store.pull()
    np.testing.assert_array_equal(pulled.trainable[0], exact["conv/kernel"])
    gradient = np.float32(1.0 + 2**-12)  # needs 12 bits; bfloat16 has 7
    gradients = [tf.fill(value.shape, gradient) for value in pulled.trainable]
    store.push(pulled, gradients, pulled.statistics, tf.constant(1, tf.int64), tf.constant(0.0))
    mean_square = (1 - config.optimizer.rho) * 1.0**2  # of a gradient rounded to 1
    np.testing.assert_allclose(store.export()["mean_square"]["head/bias"], mean_square, rtol=1e-6)
    line = store.describe()[-1]
    assert "pull 0.0 as float32" in line
    assert "push 0.0 as bfloat16" in line
