"""Xception (Chollet 2017, section 3 and figure 5): 36 convolutional layers in 14 modules.

Layers have the names and the order of keras.applications.Xception, so its weights fit.
"""

import keras

from model.heads import classifier
from model.layers import conv_bn, relu, scaled, separable_conv_bn


def xception(
    num_classes,
    image_size=299,
    *,
    width=1.0,
    middle_modules=8,
    residual=True,
    intermediate_activation="none",
    channel_segments=0,
    small_stem=False,
    fully_connected=0,
    dropout=0.0,
    batch_norm_momentum=0.99,
    bias=None,
):
    """A Keras model: images [b, image_size, image_size, 3] in [-1, 1] -> logits [b, num_classes].

    At 1,000 classes it has 22,855,952 trainable parameters (table 3).

    Args:
        width: multiplies the number of filters of every layer; below 1 for small machines.
        middle_modules: how often the middle flow is repeated; 8 in the paper.
        residual: whether modules have residual connections; figure 9 compares with none.
        intermediate_activation: none, relu or elu, between the depthwise and the pointwise part of
            every separable convolution (section 4.7, figure 10).
        channel_segments: segments of the channels in every spatial convolution, from 1 (regular)
            to 0 (one a channel, as in the paper); see layers.separable_conv_bn.
        small_stem: for images under 100 pixels. The first convolution keeps its stride of 1 and
            both are padded, so that the network shrinks an image 16-fold instead of 32-fold and
            32 pixels still leave 2 x 2 features.
        fully_connected, dropout, bias: see heads.classifier.
        batch_norm_momentum: share of the moving statistics that a step keeps.
    """

    def filters(count):
        return scaled(count, width)

    def separable(x, count, name):
        return separable_conv_bn(
            x,
            filters(count),
            segments=channel_segments,
            intermediate_activation=intermediate_activation,
            momentum=batch_norm_momentum,
            name=name,
        )

    def downsample(x, counts, block, suffix, *, relu_first=True):
        """Two separable convolutions and a pool, with a strided 1x1 convolution around them."""
        if residual:
            shortcut = conv_bn(
                x,
                filters(counts[1]),
                1,
                strides=2,
                padding="same",
                momentum=batch_norm_momentum,
                # keras.applications leaves these unnamed; the names that Keras then makes up count
                # the networks of the process, and a checkpoint must not depend on that.
                name=f"conv2d{suffix}",
                bn_name=f"batch_normalization{suffix}",
            )
        if relu_first:
            x = relu(x, f"{block}_sepconv1_act")
        x = separable(x, counts[0], f"{block}_sepconv1")
        x = relu(x, f"{block}_sepconv2_act")
        x = separable(x, counts[1], f"{block}_sepconv2")
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{block}_pool")(x)
        return keras.layers.add([x, shortcut]) if residual else x

    images = keras.Input((image_size, image_size, 3), name="images")

    # Entry flow.
    stem = {"padding": "same" if small_stem else "valid", "momentum": batch_norm_momentum}
    strides = 1 if small_stem else 2
    x = conv_bn(images, filters(32), 3, strides=strides, name="block1_conv1", **stem)
    x = relu(x, "block1_conv1_act")
    x = conv_bn(x, filters(64), 3, name="block1_conv2", **stem)
    x = relu(x, "block1_conv2_act")
    x = downsample(x, (128, 128), "block2", "", relu_first=False)
    x = downsample(x, (256, 256), "block3", "_1")
    x = downsample(x, (728, 728), "block4", "_2")

    # Middle flow.
    for block in range(5, 5 + middle_modules):
        inputs = x
        for layer in (1, 2, 3):
            name = f"block{block}_sepconv{layer}"
            x = separable(relu(x, f"{name}_act"), 728, name)
        if residual:
            x = keras.layers.add([x, inputs])

    # Exit flow. Its blocks keep their numbers whatever the length of the middle flow.
    x = downsample(x, (728, 1024), "block13", "_3")
    for layer, count in ((1, 1536), (2, 2048)):
        name = f"block14_sepconv{layer}"
        x = relu(separable(x, count, name), f"{name}_act")

    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    logits = classifier(x, num_classes, fully_connected=fully_connected, dropout=dropout, bias=bias)
    return keras.Model(images, logits, name="xception")
