"""Inception V3 (Szegedy et al. 2015) without its auxiliary tower: what the paper compares with.

Layers have the names and the order of keras.applications.InceptionV3, so its weights fit. At 1,000
classes both have 23,817,352 trainable parameters: 21,751,136 in kernels, 17,216 betas (there are no
gammas), and 2,049,000 in the classifier. The 23,626,728 of the paper's table 3 are 190,624 (0.8%)
fewer, and it does not say where. It cannot be what is counted: leaving out betas and the
classifier's biases takes 18,216 away, and counting moving statistics or gammas adds. So some
convolutions of its network were narrower than in the published definition, TF-Slim's, which has
the same parameters as keras.applications (its test: 21,802,784 without the classifier, 34,432 of
them moving statistics).
"""

import keras

from model.heads import classifier
from model.layers import conv_bn, relu, scaled

MIN_IMAGE_SIZE = 75
MIN_IMAGE_SIZE_SMALL_STEM = 31


def inception_v3(
    num_classes,
    image_size=299,
    *,
    width=1.0,
    small_stem=False,
    fully_connected=0,
    dropout=0.0,
    batch_norm_momentum=0.99,
    bias=None,
):
    """A Keras model: images [b, image_size, image_size, 3] in [-1, 1] -> logits [b, num_classes].

    Args:
        width: multiplies the number of filters of every layer; below 1 for small machines.
        small_stem: for images under 100 pixels. The first convolution keeps its stride of 1 and
            the stem's convolutions are padded, so that 31 pixels are enough instead of 75.
        fully_connected, dropout, bias: see heads.classifier.
        batch_norm_momentum: share of the moving statistics that a step keeps.

    Raises:
        ValueError: nothing would be left of images so small.
    """
    minimum = MIN_IMAGE_SIZE_SMALL_STEM if small_stem else MIN_IMAGE_SIZE
    if image_size < minimum:
        hint = "" if small_stem else f" With small_stem, {MIN_IMAGE_SIZE_SMALL_STEM} are enough."
        raise ValueError(
            f"Inception V3 needs images of {minimum} pixels or more. Received: {image_size}.{hint}"
        )
    images = keras.Input((image_size, image_size, 3), name="images")
    units = _Units(width, batch_norm_momentum)

    x = _stem(units, images, small_stem)
    for number, pool_filters in ((0, 32), (1, 64), (2, 64)):
        x = _module_35(units, x, pool_filters, f"mixed{number}")
    x = _reduction_to_17(units, x)
    for number, inner_filters in ((4, 128), (5, 160), (6, 160), (7, 192)):
        x = _module_17(units, x, inner_filters, f"mixed{number}")
    x = _reduction_to_8(units, x)
    for number in (0, 1):
        x = _module_8(units, x, number)

    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    logits = classifier(x, num_classes, fully_connected=fully_connected, dropout=dropout, bias=bias)
    return keras.Model(images, logits, name="inception_v3")


class _Units:
    """The layers that the modules are made of, named as a fresh Keras would name them.

    keras.applications leaves most of them unnamed; the names that Keras then makes up count the
    networks of the process, and a checkpoint must not depend on that.
    """

    def __init__(self, width, batch_norm_momentum):
        self._width = width
        self._momentum = batch_norm_momentum
        self._counts = {}

    def name(self, kind):
        """`kind`, `kind_1`, `kind_2`, ..."""
        number = self._counts.get(kind, 0)
        self._counts[kind] = number + 1
        return f"{kind}_{number}" if number else kind

    def conv(self, x, filters, kernel_size, *, strides=1, padding="same"):
        """Convolution, batch normalization without gammas, ReLU."""
        x = conv_bn(
            x,
            scaled(filters, self._width),
            kernel_size,
            strides=strides,
            padding=padding,
            scale=False,
            momentum=self._momentum,
            name=self.name("conv2d"),
            bn_name=self.name("batch_normalization"),
        )
        return relu(x, self.name("activation"))

    def tower(self, x, *convolutions):
        """Convolutions one after the other, each given as (filters, kernel size)."""
        for filters, kernel_size in convolutions:
            x = self.conv(x, filters, kernel_size)
        return x

    def shrink(self, x, filters):
        """A 3x3 convolution of stride 2."""
        return self.conv(x, filters, 3, strides=2, padding="valid")

    def max_pool(self, x):
        return keras.layers.MaxPooling2D(3, strides=2, name=self.name("max_pooling2d"))(x)

    def pool_tower(self, x, filters):
        """Average pooling and a 1x1 convolution."""
        name = self.name("average_pooling2d")
        x = keras.layers.AveragePooling2D(3, strides=1, padding="same", name=name)(x)
        return self.conv(x, filters, 1)

    def concatenate(self, towers, name=None):
        return keras.layers.Concatenate(name=name or self.name("concatenate"))(towers)


def _stem(units, images, small):
    padding = "same" if small else "valid"
    x = units.conv(images, 32, 3, strides=1 if small else 2, padding=padding)
    x = units.conv(x, 32, 3, padding=padding)
    x = units.conv(x, 64, 3)
    x = units.max_pool(x)
    x = units.conv(x, 80, 1, padding=padding)
    x = units.conv(x, 192, 3, padding=padding)
    return units.max_pool(x)


def _module_35(units, x, pool_filters, name):
    """At 35 x 35 of an image of 299 x 299: towers of 1x1, 5x5 and two 3x3 convolutions."""
    towers = [
        units.tower(x, (64, 1)),
        units.tower(x, (48, 1), (64, 5)),
        units.tower(x, (64, 1), (96, 3), (96, 3)),
        units.pool_tower(x, pool_filters),
    ]
    return units.concatenate(towers, name)


def _reduction_to_17(units, x):
    towers = [
        units.shrink(x, 384),
        units.shrink(units.tower(x, (64, 1), (96, 3)), 96),
        units.max_pool(x),
    ]
    return units.concatenate(towers, "mixed3")


def _module_17(units, x, inner, name):
    """At 17 x 17: 7x7 convolutions, spatially separated into 1x7 and 7x1."""
    row, column = (1, 7), (7, 1)
    towers = [
        units.tower(x, (192, 1)),
        units.tower(x, (inner, 1), (inner, row), (192, column)),
        units.tower(x, (inner, 1), (inner, column), (inner, row), (inner, column), (192, row)),
        units.pool_tower(x, 192),
    ]
    return units.concatenate(towers, name)


def _reduction_to_8(units, x):
    towers = [
        units.shrink(units.tower(x, (192, 1)), 320),
        units.shrink(units.tower(x, (192, 1), (192, (1, 7)), (192, (7, 1))), 192),
        units.max_pool(x),
    ]
    return units.concatenate(towers, "mixed8")


def _module_8(units, x, number):
    """At 8 x 8: 3x3 convolutions that end in a row and a column side by side."""

    def split(x, name=None):
        return units.concatenate([units.conv(x, 384, (1, 3)), units.conv(x, 384, (3, 1))], name)

    towers = [
        units.tower(x, (320, 1)),
        split(units.tower(x, (384, 1)), f"mixed9_{number}"),
        split(units.tower(x, (448, 1), (384, 3))),
        units.pool_tower(x, 192),
    ]
    return units.concatenate(towers, f"mixed{9 + number}")
