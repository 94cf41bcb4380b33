"""The VGG-style stack of separable convolutions of section 4.6."""

import keras
import numpy as np

from model.vgg_separable import vgg_separable


def _num_trainable(network):
    return sum(int(np.prod(v.shape)) for v in network.trainable_variables)


def test_it_has_about_as_many_parameters_as_inception_v3():
    count = _num_trainable(vgg_separable(1000))
    assert count == 23_485_227
    assert abs(count / 23_626_728 - 1) < 0.01  # table 3: "at equal parameter count"


def test_it_has_the_convolutions_and_pools_of_vgg_16_in_their_order():
    ours = [layer.name for layer in vgg_separable(10, 32, width=0.1).layers]
    vgg = [layer.name for layer in keras.applications.VGG16(weights=None).layers]
    expected = [n.replace("conv", "sepconv") for n in vgg if n.startswith("block")]
    kinds = ("_bn", "_act")
    assert [n for n in ours if n.startswith("block") and not n.endswith(kinds)] == expected


def test_at_a_width_it_has_the_filters_of_vgg_16():
    network = vgg_separable(10, 32, width=0.276)
    filters = [
        layer.filters for layer in network.layers if isinstance(layer, keras.layers.SeparableConv2D)
    ]
    assert filters == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6


def test_it_is_a_plain_stack_without_residual_connections():
    network = vgg_separable(10, 32, width=0.1)
    assert all(len(layer._inbound_nodes) == 1 for layer in network.layers)
    assert not any(isinstance(layer, keras.layers.Add) for layer in network.layers)
    logits = network(np.zeros((2, 32, 32, 3), np.float32))
    assert logits.shape == (2, 10)
