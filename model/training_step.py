"""One training step: pull, forward, backward, push. The same for every trainer."""

from typing import NamedTuple

import tensorflow as tf

from model import losses
from model.parameter_store import Work

# What every error begins with that says that a step was not applied.
NOT_FINITE = "NaN or infinity in"


class Computed(NamedTuple):
    """What a worker makes of a batch."""

    loss: tf.Tensor  # float32 scalar, the mean over the batch
    gradients: list  # of the loss, in the order of Pulled.trainable
    statistics: list  # the new ones, in the order of Pulled.statistics

    def numbers(self):
        """All tensors but the states of noises, which no mean can be taken of."""
        return [self.loss, *self.gradients, *_floats(self.statistics)]

    def with_numbers(self, numbers):
        """The same with other tensors in the place of `numbers()`, in their order."""
        loss, *rest = numbers
        values = iter(rest)
        gradients = [next(values) for _ in self.gradients]
        statistics = [next(values) if s.dtype.is_floating else s for s in self.statistics]
        return Computed(loss, gradients, statistics)


def training_step(config, network, store, images, targets, group=None):
    """Takes one step of `network` (a Keras model used as a pure function) against `store`.

    Args:
        config: a Config; gives the loss.
        images: float32 [batch, size, size, 3] in [-1, 1].
        targets: {name: [batch, ...]}, what the loss needs; see losses.features.
        group: the sync_trainer.Group that takes the step together, each process on other images.

    Returns a tensor that is there when the step is applied.

    Raises:
        InvalidArgumentError: the loss, a gradient or a batch statistic is NaN or infinite, see
            `checked`. Nothing has been pushed then.
    """
    batch_size = tf.shape(images, tf.int64)[0]
    begun = _time_after([images])
    with tf.control_dependencies([begun]):
        pulled = store.pull(first_image=group.rank * batch_size if group else 0)
    has_pulled = _time_after([*pulled.trainable, *pulled.statistics])
    computed = compute(config, network, pulled, images, targets)
    if group:
        computed = group.mean(computed)
        batch_size *= group.size
    loss, gradients, statistics = checked(config, network, computed)
    has_computed = _time_after([loss])
    applied = store.push(pulled, gradients, statistics, batch_size, loss)
    has_pushed = _time_after(applied)
    store.record(
        Work(
            steps=1,
            images=batch_size,
            pull=has_pulled - begun,
            compute=has_computed - has_pulled,
            push=has_pushed - has_computed,
        )
    )
    return has_pushed


def _time_after(dependencies):
    """Seconds on this machine's clock, once the dependencies are there."""
    with tf.control_dependencies(dependencies):
        return tf.timestamp()


def compute(config, network, pulled, images, targets):
    """The `Computed` of a batch, in `train.micro_batches` parts, one after the other.

    The gradient is the mean of the parts', so a network without batch normalization takes the step
    of the whole batch; its dropout, too, has the noise of the whole. Batch normalization
    normalizes each part by its own statistics, and the moving ones move toward the mean of the
    parts': the variances of parts do not hold what the parts' means differ by.
    """
    num_parts = config.train.micro_batches
    if num_parts == 1:
        return _compute_part(config, network, pulled, images, targets, first=0)
    size = config.input.batch_size // num_parts

    def add_part(i, sums):
        first = i * size
        part = _compute_part(
            config,
            network,
            pulled,
            images[first : first + size],
            {name: target[first : first + size] for name, target in targets.items()},
            first,
        )
        numbers = zip(sums, part.numbers(), strict=True)
        return i + 1, [total + number / num_parts for total, number in numbers]

    # A loop of the graph, so that there is never memory for more than one part.
    shapes = Computed(tf.constant(0.0), pulled.trainable, pulled.statistics)
    _, means = tf.while_loop(
        lambda i, sums: i < num_parts,
        add_part,
        (0, [tf.zeros_like(number) for number in shapes.numbers()]),
        parallel_iterations=1,
        maximum_iterations=num_parts,
    )
    return shapes.with_numbers(means)


def _compute_part(config, network, pulled, images, targets, first):
    """`first`: how many images of the batch other parts hold before these."""
    statistics = [
        s if s.dtype.is_floating else s + tf.cast(tf.stack([0, first]), s.dtype)
        for s in pulled.statistics  # what is no number of batch normalization is a noise's state
    ]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(pulled.trainable)
        logits, statistics = network.stateless_call(
            pulled.trainable, statistics, images, training=True
        )
        loss = losses.compute(config.loss, logits, targets)
    return Computed(loss, tape.gradient(loss, pulled.trainable), statistics)


def checked(config, network, computed):
    """The same, once all of it is known to be finite, its gradients clipped.

    Above `optimizer.max_gradient_norm` gradients are scaled down to that norm, all by one factor
    (Pascanu et al. 2013).

    Raises InvalidArgumentError that names the tensor: the loss; or of the gradients that are not
    finite, or too large to be squared, the last in the network, where the others begin; or a batch
    statistic.
    """
    loss, gradients, statistics = computed
    checks = [_check(["training loss"], [loss])]
    with tf.control_dependencies(checks):  # the loss is named rather than what follows from it
        squares = [2.0 * tf.nn.l2_loss(gradient) for gradient in gradients]
    names = [f"gradient of {variable.path}" for variable in network.trainable_variables]
    checks.append(_check(names, squares))
    names = [f"batch's {v.path}" for v in network.non_trainable_variables if _is_float(v)]
    checks.append(_check(names, [tf.reduce_sum(value) for value in _floats(statistics)]))
    with tf.control_dependencies(checks):
        loss = tf.identity(loss)
        norm = tf.sqrt(tf.add_n(squares))
        if config.optimizer.max_gradient_norm:
            factor = tf.minimum(1.0, config.optimizer.max_gradient_norm / norm)
            gradients = [gradient * factor for gradient in gradients]
        else:
            gradients = [tf.identity(gradient) for gradient in gradients]
        statistics = [tf.identity(value) for value in statistics]
    return Computed(loss, gradients, statistics)


def _check(names, values):
    """An operation that fails with the last of the names whose scalar is not finite."""
    if not names:
        return tf.no_op()
    is_bad = tf.logical_not(tf.math.is_finite(tf.stack(values)))
    num_bad = tf.reduce_sum(tf.cast(is_bad, tf.int32))
    last_bad = tf.reduce_max(tf.where(is_bad, tf.range(len(names)), -1))
    name = tf.gather(names, tf.maximum(last_bad, 0))
    data = [NOT_FINITE, "the", name, "(and", tf.maximum(num_bad - 1, 0), "others)"]
    return tf.debugging.Assert(tf.equal(num_bad, 0), data)


def _floats(tensors):
    return [tensor for tensor in tensors if tensor.dtype.is_floating]


def _is_float(variable):
    return variable.dtype.startswith("float")
