"""JPEGs to square images in [-1, 1]: random crops, flips and colors to train, one crop to evaluate.

The paper says nothing of it but "a single crop" (section 4.5.1). This is the Inception lineage's:
crops of 8 to 100% of the area with sides of 3:4 to 4:3 (Szegedy et al. 2014, "Going deeper with
convolutions", section 6), mirrored half of the time, then color distortion; at evaluation the
central 87.5%, bilinear. What Inception V3 was released with (tensorflow/models,
inception/image_processing.py) begins at 5% of the area, takes four kinds of interpolation in turn,
and squeezes the central 87.5% of both sides at evaluation, where this keeps a square.
"""

import tensorflow as tf


def random_resized_crop(jpeg, config):
    """A random part of the image, decoded alone. float32 [size, size, 3] in [-1, 1].

    Args:
        jpeg: string scalar.
        config: an InputConfig.
    """
    shape = tf.image.extract_jpeg_shape(jpeg)
    begin, crop_size, _ = tf.image.sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.zeros([1, 0, 4]),
        use_image_if_no_bounding_boxes=True,
        min_object_covered=0.0,
        area_range=(config.min_crop_area, 1.0),
        aspect_ratio_range=(1.0 / config.max_crop_aspect, config.max_crop_aspect),
    )
    window = tf.concat([begin[:2], crop_size[:2]], axis=0)
    image = _decode_crop(jpeg, window, config)
    if config.flip:
        image = tf.image.random_flip_left_right(image)
    return distort_color(image) if config.color_distortion else image


def central_crop(jpeg, config):
    """The central square, `eval_crop` of the shorter side long. As random_resized_crop."""
    shape = tf.image.extract_jpeg_shape(jpeg)
    height, width = shape[0], shape[1]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(tf.cast(tf.round(shorter * config.eval_crop), tf.int32), 1)
    window = tf.stack([(height - side) // 2, (width - side) // 2, side, side])
    return _decode_crop(jpeg, window, config)


def distort_color(image):
    """Random brightness, saturation, hue and contrast of an image in [-1, 1], clipped to that.

    Ranges and orders are those of Inception V3's code; there the thread decides on the order, here
    a coin does. It takes as long again as decoding and resizing do.
    """

    def brightness(x):
        return tf.image.random_brightness(x, 32 / 255)

    def saturation(x):
        return tf.image.random_saturation(x, 0.5, 1.5)

    def hue(x):
        return tf.image.random_hue(x, 0.2)

    def contrast(x):
        return tf.image.random_contrast(x, 0.5, 1.5)

    image = brightness(0.5 * (image + 1.0))
    image = tf.cond(
        tf.random.uniform([]) < 0.5,
        lambda: contrast(hue(saturation(image))),
        lambda: hue(saturation(contrast(image))),
    )
    return tf.clip_by_value(2.0 * image - 1.0, -1.0, 1.0)


def _decode_crop(jpeg, window, config):
    # TensorFlow's default DCT, the fast one, turns some white pixels of sharp images black.
    image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=3, dct_method="INTEGER_ACCURATE")
    size = config.image_size
    image = tf.image.resize(image, [size, size], method=config.interpolation, antialias=False)
    image.set_shape([size, size, 3])
    image = image / 127.5 - 1.0
    # A bicubic curve overshoots at edges.
    return tf.clip_by_value(image, -1.0, 1.0) if config.interpolation == "bicubic" else image
