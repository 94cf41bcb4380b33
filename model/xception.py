"""Xception (Chollet 2017, section 3 and figure 5): 36 convolutional layers in 14 modules.

Layers have the names and the order of keras.applications.Xception, so its weights fit.
"""

import keras

from model.heads import logistic_regression
from model.layers import conv_bn, separable_conv_bn


def xception(
    num_classes,
    image_size=299,
    *,
    width=1.0,
    middle_modules=8,
    batch_norm_momentum=0.99,
    bias=None,
):
    """A Keras model: images [b, image_size, image_size, 3] in [-1, 1] -> logits [b, num_classes].

    At 1,000 classes it has 22,855,952 trainable parameters (table 3).

    Args:
        width: multiplies the number of filters of every layer; below 1 for small machines.
        middle_modules: how often the middle flow is repeated; 8 in the paper.
        batch_norm_momentum: share of the moving statistics that a step keeps.
        bias: initial biases of the classifier, float [num_classes].
    """

    def filters(count):
        return max(8, int(count * width))

    def relu(x, name):
        return keras.layers.Activation("relu", name=f"{name}_act")(x)

    def separable(x, count, name):
        return separable_conv_bn(x, filters(count), momentum=batch_norm_momentum, name=name)

    def downsample(x, counts, block, suffix, *, relu_first=True):
        """Two separable convolutions and a pool, with a strided 1x1 convolution around them."""
        residual = conv_bn(
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
            x = relu(x, f"{block}_sepconv1")
        x = separable(x, counts[0], f"{block}_sepconv1")
        x = relu(x, f"{block}_sepconv2")
        x = separable(x, counts[1], f"{block}_sepconv2")
        x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name=f"{block}_pool")(x)
        return keras.layers.add([x, residual])

    images = keras.Input((image_size, image_size, 3), name="images")

    # Entry flow.
    x = conv_bn(
        images, filters(32), 3, strides=2, momentum=batch_norm_momentum, name="block1_conv1"
    )
    x = relu(x, "block1_conv1")
    x = conv_bn(x, filters(64), 3, momentum=batch_norm_momentum, name="block1_conv2")
    x = relu(x, "block1_conv2")
    x = downsample(x, (128, 128), "block2", "", relu_first=False)
    x = downsample(x, (256, 256), "block3", "_1")
    x = downsample(x, (728, 728), "block4", "_2")

    # Middle flow.
    for block in range(5, 5 + middle_modules):
        residual = x
        for layer in (1, 2, 3):
            name = f"block{block}_sepconv{layer}"
            x = separable(relu(x, name), 728, name)
        x = keras.layers.add([x, residual])

    # Exit flow. Its blocks keep their numbers whatever the length of the middle flow.
    x = downsample(x, (728, 1024), "block13", "_3")
    for layer, count in ((1, 1536), (2, 2048)):
        name = f"block14_sepconv{layer}"
        x = relu(separable(x, count, name), name)

    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    return keras.Model(images, logistic_regression(x, num_classes, bias), name="xception")
