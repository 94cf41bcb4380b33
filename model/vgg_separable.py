"""A VGG-style stack of separable convolutions without residual connections (paper, section 4.6).

The paper says of it: "all convolution layers were replaced with depthwise separable convolutions
(with a depth multiplier of 1)", "at equal parameter count" with Inception V3; it gives no figure.
Here it is VGG-16 (Simonyan and Zisserman 2014), its 13 convolutions in 5 blocks, with the changes
that the paper makes in Xception too: batch normalization after every convolution, and global
average pooling before the classifier.
"""

import keras

from model.heads import classifier
from model.layers import relu, scaled, separable_conv_bn

# (convolutions, filters) of each block. VGG-16 begins with 64 filters and doubles them up to 512;
# separable convolutions need 232 to come to Inception V3's number of parameters.
BLOCKS = ((2, 232), (2, 464), (3, 928), (3, 1856), (3, 1856))


def vgg_separable(
    num_classes,
    image_size=299,
    *,
    width=1.0,
    intermediate_activation="none",
    channel_segments=0,
    fully_connected=0,
    dropout=0.0,
    batch_norm_momentum=0.99,
    bias=None,
):
    """A Keras model: images [b, image_size, image_size, 3] in [-1, 1] -> logits [b, num_classes].

    At 1,000 classes it has 23,485,227 trainable parameters, within 1% of Inception V3's (table 3).

    Args:
        width: multiplies the number of filters of every layer; 0.276 gives VGG-16's.
        intermediate_activation, channel_segments: see layers.separable_conv_bn.
        fully_connected, dropout, bias: see heads.classifier.
        batch_norm_momentum: share of the moving statistics that a step keeps.
    """
    x = images = keras.Input((image_size, image_size, 3), name="images")
    for block, (num_convolutions, filters) in enumerate(BLOCKS, start=1):
        for number in range(1, num_convolutions + 1):
            name = f"block{block}_sepconv{number}"
            x = separable_conv_bn(
                x,
                scaled(filters, width),
                segments=channel_segments,
                intermediate_activation=intermediate_activation,
                momentum=batch_norm_momentum,
                name=name,
            )
            x = relu(x, f"{name}_act")
        # Padded, unlike VGG's, so that an image of any size leaves something.
        x = keras.layers.MaxPooling2D(2, padding="same", name=f"block{block}_pool")(x)
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    logits = classifier(x, num_classes, fully_connected=fully_connected, dropout=dropout, bias=bias)
    return keras.Model(images, logits, name="vgg_separable")
