"""What turns features into class scores: a logistic regression (paper, section 3).

The head gives logits. Whether they are of independent sigmoids (JFT) or of one softmax (ImageNet)
is the loss's business; only the biases to start from differ, see `prior_bias`.
"""

import keras
import numpy as np

from model.layers import Dropout, relu


def classifier(features, num_classes, *, fully_connected=0, dropout=0.0, bias=None):
    """Logits. Shapes: [b, d] -> [b, num_classes], always float32.

    Args:
        fully_connected: units of each of two layers before the logistic regression: 4,096 in
            figures 7 and 8 and table 2; 0 for none. The paper names no activation: ReLU.
        dropout: share of the logistic regression's inputs that training drops: 0.5 on ImageNet,
            none on JFT (section 4.3).
        bias: initial biases, float [num_classes]; zeros when absent. See `prior_bias`.
    """
    x = features
    if fully_connected:
        for name in ("fc1", "fc2"):
            x = relu(keras.layers.Dense(fully_connected, name=name)(x), f"{name}_act")
    if dropout:
        x = Dropout(dropout, name="dropout")(x)
    initializer = "zeros" if bias is None else keras.initializers.Constant(bias)
    x = keras.layers.Dense(num_classes, bias_initializer=initializer, name="predictions")(x)
    # Scores are compared across classes and images: bfloat16 would tie thousands of them.
    return keras.layers.Activation("linear", dtype="float32", name="logits")(x)


def prior_bias(class_counts, num_examples, *, softmax=False):
    """Biases at which every class starts at its frequency. float32 [num_classes].

    Without this the first thousands of steps go into learning that almost every label is absent.
    Counts are smoothed by one half, so that a class never seen gets a finite bias.

    Args:
        softmax: the scores are of one softmax, in which the frequencies sum to one, instead of
            independent sigmoids.
    """
    counts = np.asarray(class_counts, np.float64) + 0.5
    if softmax:
        return np.log(counts / counts.sum()).astype(np.float32)
    frequency = counts / (num_examples + 1.0)
    return np.log(frequency / (1.0 - frequency)).astype(np.float32)
