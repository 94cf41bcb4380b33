"""The learning-rate schedule, and each optimizer as one fused op where the parameter lives."""

import numpy as np
import tensorflow as tf

# What each optimizer keeps of every trainable parameter.
SLOTS = {"rmsprop": ("mean_square", "momentum"), "sgd": ("momentum",)}


def learning_rate(config, step, samples):
    """The rate for the next step: a float32 scalar tensor.

    staircase: learning_rate * decay_rate^floor(progress / decay_every) (paper, section 4.2);
    cosine: from learning_rate down to learning_rate * decay_rate along half a cosine wave.

    Args:
        config: a Config; its optimizer.schedule_unit says what the schedule counts.
        step: int64 scalar, updates that the store has applied so far.
        samples: int64 scalar, images in those updates.
    """
    schedule = config.optimizer
    # float64: at 350 million samples float32 counts in strides of 32.
    progress = {
        "samples": tf.cast(samples, tf.float64),
        "steps": tf.cast(step, tf.float64),
        "run": tf.cast(samples, tf.float64) / config.train.samples,
    }[schedule.schedule_unit]
    periods = progress / schedule.decay_every
    if schedule.decay == "staircase":
        factor = tf.pow(tf.constant(schedule.decay_rate, tf.float64), tf.floor(periods))
    else:
        descent = 0.5 * (1.0 + tf.cos(np.pi * tf.minimum(periods, 1.0)))
        factor = schedule.decay_rate + (1.0 - schedule.decay_rate) * descent
    rate = schedule.learning_rate * factor
    if schedule.warmup > 0:
        rate *= tf.minimum(progress / schedule.warmup, 1.0)
    return tf.cast(rate, tf.float32)


def apply(config, parameters, slots, gradient, rate):
    """One step of the configured optimizer on a flat variable, in place.

    Args:
        config: an OptimizerConfig.
        slots: {name: variable of the parameters' shape} for the names in SLOTS.
    """
    if config.name == "sgd":
        return apply_sgd(config, parameters, slots["momentum"], gradient, rate)
    return apply_rmsprop(
        config, parameters, slots["mean_square"], slots["momentum"], gradient, rate
    )


def apply_sgd(config, parameters, momentum, gradient, rate):
    """One step of gradient descent with momentum, under its lock (paper, section 4.2).

    momentum    <- m momentum + gradient
    parameters  <- parameters - rate momentum

    The rate stands outside of the momentum, as in TensorFlow's MomentumOptimizer of the paper's
    time: when it falls, all of the next step is smaller.
    """
    return tf.raw_ops.ResourceApplyMomentum(
        var=parameters.handle,
        accum=momentum.handle,
        lr=rate,
        grad=gradient,
        momentum=config.momentum,
        use_locking=True,
    )


def apply_rmsprop(config, parameters, mean_square, momentum, gradient, rate):
    """One RMSprop step on a flat variable, in place, under its lock (paper, section 4.2).

    mean_square <- rho mean_square + (1 - rho) gradient^2
    momentum    <- m momentum + rate gradient / sqrt(mean_square + epsilon)
    parameters  <- parameters - momentum
    """
    return tf.raw_ops.ResourceApplyRMSProp(
        var=parameters.handle,
        ms=mean_square.handle,
        mom=momentum.handle,
        lr=rate,
        rho=config.rho,
        momentum=config.momentum,
        epsilon=config.epsilon,
        grad=gradient,
        use_locking=True,
    )
