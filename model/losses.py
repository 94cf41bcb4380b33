"""Losses over sparse lists of labels: no dense target of 17,000 columns is ever built.

A multi-label loss is a cost P(x) of a positive and a cost N(x) of a negative, each a function of
one logit. With u for what an unknown class counts (loss.unknown_weight), an image costs

    u Σ_all N(x) + Σ_labels [w (P - N)(x) + (s - u) N(x)] + (1 - u) Σ_negatives N(x)

where a label counts w P(x) + (s - w) N(x): w = s = 1 if confidences are ignored, w = s = c if a
label counts for its confidence c, and w = c, s = 1 if c is its target. Only the first sum touches
every class; the others gather. Losses are summed over the classes and averaged over the images:
with a sum, the gradient of a class keeps its size whatever the number of classes.
"""

import tensorflow as tf

from pipeline import schema


def compute(config, logits, targets):
    """The configured loss of a batch: a float32 scalar.

    Args:
        config: a LossConfig.
        logits: float [batch, num_classes]; the loss is computed in float32.
        targets: what the dataset gave, by the names of `features`.
    """
    logits = tf.cast(logits, tf.float32)
    labels = targets[schema.LABELS]
    confidences = targets[schema.CONFIDENCES] if config.confidence != "ignore" else None
    if config.name == "softmax_cross_entropy":
        return softmax_cross_entropy(logits, labels, confidences)
    negatives = targets[schema.NEGATIVES] if config.unknown_weight < 1.0 else None
    return _multi_label(config, logits, labels, confidences, negatives)


def features(config):
    """Names of the record's features that the loss needs (see pipeline.schema).

    labels, negatives: int64 [batch, longest list], padded with -1; ids of distinct classes, none
    in both lists. confidences: float32 in the shape of labels, padded with 0.
    """
    names = [schema.LABELS]
    if config.confidence != "ignore":
        names.append(schema.CONFIDENCES)
    if config.unknown_weight < 1.0:
        names.append(schema.NEGATIVES)
    return names


def softmax_cross_entropy(logits, labels, confidences=None):
    """Softmax cross-entropy of the first label of each image, averaged over images.

    That an image has one label is checked where it is read: see model.input.
    """
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels[:, 0], logits)
    if confidences is not None:
        losses *= confidences[:, 0]
    return tf.reduce_mean(losses)


def _multi_label(config, logits, labels, confidences, negatives):
    """The sum at the top of this file. Terms whose factor is zero throughout are left out."""
    costs = _COSTS[config.name](config)
    unknown = config.unknown_weight
    w = 1.0 if confidences is None else confidences
    s = w if config.confidence == "weight" else 1.0

    x = _at(logits, labels)
    per_label = w * costs.difference(x)
    if confidences is not None or unknown < 1.0:
        per_label += (s - unknown) * costs.negative(x)
    losses = _sum_over(labels, per_label)
    if unknown > 0.0:
        everywhere = costs.negative(logits)
        losses += tf.reduce_sum(everywhere if unknown == 1.0 else unknown * everywhere, axis=1)
    if negatives is not None:
        x = _at(logits, negatives)
        losses += _sum_over(negatives, (1.0 - unknown) * costs.negative(x))
    return tf.reduce_mean(losses)


class Costs:
    """What a logit costs as a positive and as a negative. Elementwise, in the shape of `x`."""

    def __init__(self, config):
        self.config = config

    def positive(self, x):
        """P(x)."""
        raise NotImplementedError

    def negative(self, x):
        """N(x)."""
        raise NotImplementedError

    def difference(self, x):
        """P(x) - N(x)."""
        return self.positive(x) - self.negative(x)


class SigmoidCrossEntropy(Costs):
    """P(x) = -log p and N(x) = -log(1 - p), with p = sigmoid(x)."""

    def positive(self, x):
        return tf.math.softplus(-x)

    def negative(self, x):
        return tf.math.softplus(x)

    def difference(self, x):
        return -x


class Focal(Costs):
    """Lin et al. 2017, the balanced form (their equation 5), with p = sigmoid(x).

    P(x) = -alpha (1 - p)^gamma log p, N(x) = -(1 - alpha) p^gamma log(1 - p).
    """

    def positive(self, x):
        return self.config.alpha * _focused(-x, self.config.gamma)

    def negative(self, x):
        return (1.0 - self.config.alpha) * _focused(x, self.config.gamma)


class Asymmetric(Costs):
    """Ridnik et al. 2021 (ASL), with p = sigmoid(x) and q = max(p - clip, 0).

    P(x) = -(1 - p)^gamma_positive log p, N(x) = -q^gamma_negative log(1 - q). The gradient is that
    of these formulas; the authors' code can also take the powers for constants in it.
    """

    def positive(self, x):
        return _focused(-x, self.config.gamma_positive)

    def negative(self, x):
        gamma, clip = self.config.gamma_negative, self.config.clip
        if clip == 0.0:
            return _focused(x, gamma)
        p = tf.sigmoid(x)
        # Below the clip a harmless q stands in: the gradient of a power is infinite at zero.
        q = tf.where(p > clip, p - clip, 0.5)
        # 1 - q = (1 - p) + clip, which unlike 1 - p does not vanish.
        loss = -tf.pow(q, gamma) * tf.math.log(tf.sigmoid(-x) + clip)
        return tf.where(p > clip, loss, 0.0)


_COSTS: dict[str, type[Costs]] = {
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "focal": Focal,
    "asymmetric": Asymmetric,
}


def _focused(x, gamma):
    """-p^gamma log(1 - p) for p = sigmoid(x), in forms that neither overflow nor divide by zero."""
    loss = tf.math.softplus(x)
    return loss if gamma == 0.0 else tf.exp(-gamma * tf.math.softplus(-x)) * loss


def _at(logits, ids):
    """[batch, k] logits of the classes in `ids`; those of class 0 where `ids` is padded."""
    return tf.gather(logits, tf.where(ids >= 0, ids, 0), batch_dims=1)


def _sum_over(ids, values):
    """[batch] sums of `values` where `ids` is not padded."""
    return tf.reduce_sum(tf.where(ids >= 0, values, 0.0), axis=1)
