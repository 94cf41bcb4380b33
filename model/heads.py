"""What turns features into class scores: one logistic regression a class (paper, section 3)."""

import keras
import numpy as np


def logistic_regression(features, num_classes, bias=None):
    """Logits of independent sigmoids. Shapes: [b, d] -> [b, num_classes], always float32.

    `bias`: initial biases, float [num_classes]; zeros when absent. See `prior_bias`.
    """
    initializer = "zeros" if bias is None else keras.initializers.Constant(bias)
    logits = keras.layers.Dense(num_classes, bias_initializer=initializer, name="predictions")(
        features
    )
    # Scores are compared across classes and images: bfloat16 would tie thousands of them.
    return keras.layers.Activation("linear", dtype="float32", name="logits")(logits)


def prior_bias(class_counts, num_examples):
    """Biases at which every sigmoid starts at its class's frequency. float32 [num_classes].

    Without this the first thousands of steps go into learning that almost every label is absent.
    Counts are smoothed by one half, so that a class never seen gets a finite bias.
    """
    frequency = (np.asarray(class_counts, np.float64) + 0.5) / (num_examples + 1.0)
    return np.log(frequency / (1.0 - frequency)).astype(np.float32)
