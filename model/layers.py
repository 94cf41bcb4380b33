"""Building blocks of the networks: fused batch normalization, dropout, and the convolution units.

Imports `keras` alone, so that a network definition runs on any Keras backend. The one kernel that
Keras lacks (batch normalization as a single TensorFlow op) is loaded when that backend is in use.
"""

import keras
from keras import ops


class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` as one fused kernel where the backend has one.

    Same arguments, variables and numbers as the parent, in training and at inference. Keras spells
    the computation out in separate ops; the fused one took 3.19 instead of 3.59 cpu seconds a
    training step of Xception in float32, 2.30 instead of 2.81 in bfloat16.
    """

    def call(self, inputs, training=None, mask=None):
        fusable = (
            keras.backend.backend() == "tensorflow"
            and mask is None
            and len(inputs.shape) == 4
            and self.axis == 3
            and not (self.synchronized and training)
        )
        if not fusable:
            return super().call(inputs, training=training, mask=mask)

        from model import fused_batch_norm

        gamma = self.gamma if self.scale else ops.ones_like(self.moving_variance)
        beta = self.beta if self.center else ops.zeros_like(self.moving_mean)
        if not (training and self.trainable):
            return fused_batch_norm.inference(
                inputs, gamma, beta, self.moving_mean, self.moving_variance, self.epsilon
            )
        outputs, mean, variance = fused_batch_norm.training(inputs, gamma, beta, self.epsilon)
        keep = self.momentum
        self.moving_mean.assign(self.moving_mean * keep + mean * (1.0 - keep))
        self.moving_variance.assign(self.moving_variance * keep + variance * (1.0 - keep))
        return outputs


class Dropout(keras.layers.Layer):
    """Dropout on [b, d] whose noise depends on a seed and the number of each sample alone.

    The generator's state is (seed, number of the batch's first sample). The trainer passes it in
    with `stateless_call`, from its own counters: there is nothing to save, a resumed run goes on
    with the noise that it would have had, and a batch in parts has the noise of the whole. A
    call outside of `stateless_call` moves the state on by itself.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        # Keras counts its state among the variables of the network, but not among the weights.
        self.seed_generator = keras.random.SeedGenerator(seed=0)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        state = self.seed_generator.state
        batch_size, size = ops.shape(inputs)
        seed, first = (ops.cast(part, "uint32") for part in ops.unstack(state, num=2))
        samples = first + ops.cast(ops.arange(batch_size), "uint32")
        samples = _scramble(ops.bitwise_xor(_scramble(seed), samples))
        features = _scramble(ops.cast(ops.arange(size), "uint32"))
        noise = _scramble(ops.bitwise_xor(ops.expand_dims(samples, 1), features))
        state.assign(state + ops.cast(ops.stack([0, batch_size]), state.dtype))
        is_kept = noise >= ops.cast(round(self.rate * 2**32), "uint32")
        return ops.where(is_kept, inputs / (1.0 - self.rate), ops.zeros_like(inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def _scramble(x):
    """A bijection of uint32 in which each bit depends on all bits: the `lowbias32` of C. Wellons.

    Generators of the backends draw one stream a batch; a hash of the sample's number does not care
    where the batch is cut.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        shifted = ops.right_shift(x, ops.cast(shift, "uint32"))
        x = ops.bitwise_xor(x, shifted) * ops.cast(factor, "uint32")
    return x


def scaled(filters, width):
    """The number of filters at a width multiplier; at least 8."""
    return max(8, int(filters * width))


def relu(x, name):
    return keras.layers.Activation("relu", name=name)(x)


def conv_bn(
    x,
    filters,
    kernel_size,
    *,
    strides=1,
    padding="valid",
    scale=True,
    momentum=0.99,
    name,
    bn_name=None,
):
    """Convolution without bias, then batch normalization: [b, h, w, c] -> [b, h', w', filters]."""
    if kernel_size == 1 and strides == 2 and x.shape[-1] < 16:
        # The same in two parts, bit for bit. The gradient of the strided convolution writes past
        # its memory on CPU (TensorFlow 2.21) where there are so few channels, if its input has an
        # even size and about 64 pixels a side or more.
        x, strides = x[:, ::2, ::2], 1
    x = keras.layers.Conv2D(
        filters, kernel_size, strides=strides, padding=padding, use_bias=False, name=name
    )(x)
    return BatchNormalization(momentum=momentum, scale=scale, name=bn_name or f"{name}_bn")(x)


def num_segments(channels, wanted):
    """Into how many equal segments `channels` are cut: the largest divisor up to `wanted`.

    0 stands for one a channel. 728 channels and 16 wanted segments give 14 of 52 channels.
    """
    if wanted == 0:
        return channels
    return max(count for count in range(1, min(wanted, channels) + 1) if channels % count == 0)


def separable_conv_bn(
    x, filters, *, segments=0, intermediate_activation="none", momentum=0.99, name
):
    """3x3 separable convolution, then batch normalization (paper, figure 5). No bias.

    A spatial convolution that leaves the number of channels (depth multiplier 1), then a pointwise
    one. Shapes: [b, h, w, c] -> [b, h, w, filters].

    Args:
        segments: over how many independent segments of the channels the spatial convolution is
            done (sections 1.2 and 5); see `num_segments`. 0, one a channel, is the depthwise
            separable convolution of the paper: a plain `SeparableConv2D`. 1 is a regular
            convolution c -> c, followed by the 1x1 convolution that the paper has precede it (in
            a stack the order is unimportant, section 1.2). Without an activation between them
            the two are together one regular convolution c -> filters, whose kernel is the product
            of both: sum over m of spatial[i, j, c, m] pointwise[m, f].
        intermediate_activation: none, relu or elu, between both parts (section 4.7, figure 10).
    """
    channels = x.shape[-1]
    segments = num_segments(channels, segments)
    options = {"padding": "same", "use_bias": False}
    if segments == channels and intermediate_activation == "none":
        x = keras.layers.SeparableConv2D(filters, 3, name=name, **options)(x)
    else:
        if segments == channels:
            x = keras.layers.DepthwiseConv2D(3, name=f"{name}_spatial", **options)(x)
        else:
            x = keras.layers.Conv2D(
                channels, 3, groups=segments, name=f"{name}_spatial", **options
            )(x)
        if intermediate_activation != "none":
            x = keras.layers.Activation(
                intermediate_activation, name=f"{name}_{intermediate_activation}"
            )(x)
        x = keras.layers.Conv2D(filters, 1, name=f"{name}_pointwise", **options)(x)
    return BatchNormalization(momentum=momentum, name=f"{name}_bn")(x)
