"""Where the parameters live: in this process, or sharded over parameter servers (ps).

The store holds every parameter of a network in a few flat vectors ("blocks"), cut evenly over the
ps. A worker pulls the blocks, cuts them into the network's tensors, and pushes one flat gradient a
block; all else happens where the block lives: weight decay, the optimizer, Polyak averages, the
statistics of batch normalization, and the counters of steps and samples.

Flat blocks, not a variable a tensor: equal pieces balance any number of servers, whatever the
shapes of the tensors (a head of 17,000 classes is 63% of an Xception), and a rule is written once
for a segment instead of once for each of 236 tensors. Small networks are faster so, Xception with
1,000 classes is about 5% slower (`python -m benchmarks.parameter_store`; figures in the README).

Statistics move toward what a batch held, from where they are by then: value += (1 - m) (batch -
value), with m the network's batch_norm_momentum. Adding a worker's own `new - old` instead drives
variances below zero once more than 1 / (1 - m) workers start from the same value.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from model import optimizers
from model.checkpoint import CheckpointError
from model.parameter_layout import Layout, place

# Entries of the counter vector. One vector, so that all of a step is counted or nothing of it;
# float64, which counts integers exactly up to 9e15.
STEP, SAMPLES, LOSS_SUM, PULLED_STEP_SUM = range(4)


class _Block:
    """The variables of one placement. `slots`: names of what the optimizer keeps of each value."""

    def __init__(self, placement, slots):
        self.segment = placement.segment
        self.size = placement.size
        self.device = placement.device
        self.trainable = placement.segment != "statistics"
        with tf.device(self.device):
            zeros = tf.zeros([self.size])
            self.values = tf.Variable(zeros)
            self.ema = tf.Variable(zeros)
            self.slots = {name: tf.Variable(zeros) for name in slots if self.trainable}

    def variable(self, kind):
        """What holds a kind of state (see _KINDS), or None where this block has no such."""
        return {"parameters": self.values, "ema": self.ema, **self.slots}.get(kind)

    def read(self, wire_dtype):
        """The values, cast where they live to what goes over the wire."""
        with tf.device(self.device):
            values = self.values.read_value()
            return tf.cast(values, wire_dtype) if self.trainable else values

    def apply(self, config, update, rate, ema_decay):
        """Applies a gradient (or a batch's statistics) that came over the wire; the last op."""
        with tf.device(self.device):
            if self.trainable:
                gradient = tf.cast(update, tf.float32)
                if self.segment == "decayed":
                    decay = config.optimizer.weight_decay * self.values.read_value()
                    if config.optimizer.decoupled_decay:
                        self.values.assign_sub(rate * decay, read_value=False)
                    else:
                        gradient += decay
                optimizers.apply(config.optimizer, self.values, self.slots, gradient, rate)
            else:
                keep = config.network.batch_norm_momentum
                difference = self.values.read_value() - update
                self.values.assign_sub((1.0 - keep) * difference, read_value=False)
            difference = self.ema.read_value() - self.values.read_value()
            return self.ema.assign_sub((1.0 - ema_decay) * difference, read_value=False)


@dataclasses.dataclass
class Pulled:
    """What a worker starts a step from."""

    trainable: list  # float32 tensors, in the order of network.trainable_variables
    # In the order of network.non_trainable_variables: float32 batch statistics; and for each random
    # generator its state, [train.seed, samples], see layers.Dropout.
    statistics: list
    step: tf.Tensor  # int64: the store's counter when it was pulled
    samples: tf.Tensor  # int64


class Progress(NamedTuple):
    """The store's counters."""

    step: int  # updates applied
    samples: int  # images in them
    loss_sum: float  # of the updates since the store was made or restored
    staleness_sum: float  # of the same: updates by others between an update's pull and its push


class Work(NamedTuple):
    """What a worker did, and the seconds that it spent on it."""

    steps: float
    images: float
    pull: float  # from the images' arrival until the parameters are here
    compute: float
    push: float  # until the parameters are updated


class ParameterStore:
    """Parameters, optimizer slots, Polyak averages and counters of one training run.

    Args:
        config: a Config.
        network: a built Keras model: gives the layout and the initial values.
        ps_devices: TensorFlow device names that share the store. None keeps it in this process,
            where there is no wire and a cast to its types would only lose digits.
        workers: numbers of those that take steps, for the record of each one's time.
    """

    def __init__(self, config, network, ps_devices=None, workers=(0,)):
        self.layout = Layout.of(network)
        self._config = config
        self._pull_dtype = tf.as_dtype(config.train.pull_dtype if ps_devices else "float32")
        self._workers = workers
        self._push_dtype = tf.as_dtype(config.train.push_dtype if ps_devices else "float32")
        devices = ps_devices or ["/device:CPU:0"]
        self._trainable_order = [v.path for v in network.trainable_variables]
        stored = {v.path for v in network.non_trainable_weights}
        self._statistics_order = [  # None: a random generator's state, which is never stored
            v.path if v.path in stored else None for v in network.non_trainable_variables
        ]
        slots = optimizers.SLOTS[config.optimizer.name]
        self._blocks = [_Block(placement, slots) for placement in place(self.layout, devices)]
        with tf.device(devices[0]):
            self._counters = tf.Variable(tf.zeros([4], tf.float64))
            rows = max(workers) + 1
            self._work = tf.Variable(tf.zeros([rows, len(Work._fields)], tf.float64))
        initial = {v.path: np.asarray(v) for v in network.weights}
        self.restore({"parameters": initial, "ema": initial, "step": 0, "samples": 0})

    # ---- Traced into a worker's step ----

    def pull(self, first_image=0):
        """Reads everything that a step needs: a `Pulled`.

        Args:
            first_image: how many of the step's images other processes compute on before this one's;
                the noise of the network goes by an image's number.
        """
        with tf.device(self._counters.device):
            counters = self._counters.read_value()
        tensors = {}
        for name, members in self.layout.segments():
            blocks = [b.read(self._pull_dtype) for b in self._blocks if b.segment == name]
            if blocks:
                # Cut as it came over the wire: half the bytes to copy where that is bfloat16.
                pieces = tf.split(tf.concat(blocks, axis=0), [t.size for t in members])
                for tensor, piece in zip(members, pieces, strict=True):
                    piece = tf.cast(piece, tf.float32)
                    tensors[tensor.path] = tf.reshape(piece, tensor.shape)
        samples = tf.cast(counters[SAMPLES], tf.int64)
        # Workers that pull between the same two updates share their noise, on other images.
        seed = tf.constant(self._config.train.seed, tf.int64)
        noise_state = tf.stack([seed, samples + first_image])
        return Pulled(
            trainable=[tensors[path] for path in self._trainable_order],
            statistics=[tensors.get(path, noise_state) for path in self._statistics_order],
            step=tf.cast(counters[STEP], tf.int64),
            samples=samples,
        )

    def push(self, pulled, gradients, statistics, batch_size, loss):
        """Applies a step's results.

        Args:
            pulled: what the step started from.
            gradients: tensors in the order of pulled.trainable.
            statistics: the new statistics, in the order of pulled.statistics.
            batch_size: integer scalar, images in the step.
            loss: float32 scalar, for the progress line.

        Returns the operations after which the step is applied.
        """
        applied = []
        updates = dict(zip(self._trainable_order, gradients, strict=True))
        keep = self._config.network.batch_norm_momentum
        for path, new, old in zip(
            self._statistics_order, statistics, pulled.statistics, strict=True
        ):
            if path is not None:
                updates[path] = (new - keep * old) / (1.0 - keep)  # what the batch held
        rate = optimizers.learning_rate(self._config, pulled.step, pulled.samples)
        ema_decay = self._ramped_ema_decay(pulled.step)

        for name, members in self.layout.segments():
            blocks = [b for b in self._blocks if b.segment == name]
            if not blocks:
                continue
            wire_dtype = self._push_dtype if blocks[0].trainable else tf.float32
            pieces = [tf.cast(tf.reshape(updates[t.path], [-1]), wire_dtype) for t in members]
            pieces = tf.split(tf.concat(pieces, axis=0), [b.size for b in blocks])
            for block, piece in zip(blocks, pieces, strict=True):
                applied.append(block.apply(self._config, piece, rate, ema_decay))

        counts = [tf.cast(value, tf.float64) for value in (1, batch_size, loss, pulled.step)]
        with tf.device(self._counters.device):
            applied.append(self._counters.assign_add(tf.stack(counts), read_value=False))
        return applied

    def record(self, work):
        """Adds a step's `Work` to that of the worker that takes it: to be looked at, no more."""
        worker = tf.constant(self._workers[0])
        if len(self._workers) > 1:  # the coordinator counts those alone that take part
            index = tf.distribute.coordinator.experimental_get_current_worker_index()
            worker = tf.gather(tf.constant(self._workers), index)
        row = tf.stack([tf.cast(value, tf.float64) for value in work])
        update = tf.IndexedSlices(row[tf.newaxis], tf.reshape(worker, [1]))
        with tf.device(self._work.device):
            return self._work.scatter_add(update)

    def _ramped_ema_decay(self, step):
        """min(decay, (1 + n) / (10 + n)): young averages forget the random start quickly."""
        n = tf.cast(step, tf.float32)
        return tf.minimum(self._config.train.ema_decay, (1.0 + n) / (10.0 + n))

    # ---- Called by the chief ----

    def progress(self):
        """A `Progress`: what has been counted so far."""
        step, samples, loss_sum, pulled_step_sum = self._counters.numpy()
        return Progress(int(step), int(samples), loss_sum, _sum_below(step) - pulled_step_sum)

    def work(self):
        """[Work]: what each worker, by its number, has done since the store was made."""
        return [Work(*row) for row in self._work.numpy().tolist()]

    def step_bytes(self):
        """{device: bytes that a step moves to and from it}."""
        moved = dict.fromkeys([block.device for block in self._blocks], 0)
        for block in self._blocks:
            wires = (self._pull_dtype, self._push_dtype)
            size = sum(wire.size for wire in wires) if block.trainable else 2 * 4
            moved[block.device] += block.size * size
        return moved

    def export(self):
        """Everything that a checkpoint holds, as numpy arrays by name.

        {"parameters": {path: array}, "ema": ..., "mean_square": ..., "momentum": ...,
        "step": int, "samples": int}. Read block by block while training goes on: a block is
        consistent in itself, and blocks are as far apart as two workers' steps are anyway. The
        counters are read first, so that a resumed run repeats steps rather than skipping them.
        """
        progress = self.progress()
        state = {"step": progress.step, "samples": progress.samples}
        for kind in _KINDS:
            vectors = {}
            for name, _ in self.layout.segments():
                variables = [b.variable(kind) for b in self._blocks if b.segment == name]
                pieces = [variable.numpy() for variable in variables if variable is not None]
                if pieces:
                    vectors[name] = np.concatenate(pieces)
            state[kind] = self.layout.unflatten(vectors)
        return state

    def restore(self, state):
        """Writes what `export` gave, whatever the number of devices was then.

        Slots that are absent start at zero, as in a new run, and so do those of another optimizer:
        what one keeps under a name is nothing that another could go on from. CheckpointError, and
        nothing is written, where the tensors are not this network's, each in its shape.
        """
        slots = {name for name in _SLOTS if state.get(name)}
        same_optimizer = slots == set(optimizers.SLOTS[self._config.optimizer.name])
        kinds = ("parameters", "ema", *(slots if same_optimizer else ()))
        for kind in kinds:
            _check_is_of(self.layout, kind, state)
        for kind in kinds:
            vectors = self.layout.flatten(_with_zeros(self.layout, state[kind]))
            offsets = dict.fromkeys(vectors, 0)
            for block in self._blocks:
                start = offsets[block.segment]
                offsets[block.segment] = start + block.size
                variable = block.variable(kind)
                if variable is not None:
                    variable.assign(vectors[block.segment][start : start + block.size])
        step, samples = state["step"], state["samples"]
        self._counters.assign([step, samples, 0.0, _sum_below(step)])

    def describe(self):
        """Lines that say what lies where, and how many bytes a step moves."""
        per_device: dict[str, tuple[int, int]] = {}
        pull_bytes = push_bytes = 0
        for block in self._blocks:
            state_bytes = block.size * 4 * (2 + len(block.slots))
            blocks, total = per_device.get(block.device, (0, 0))
            per_device[block.device] = (blocks + 1, total + state_bytes)
            pull_bytes += block.size * (self._pull_dtype.size if block.trainable else 4)
            push_bytes += block.size * (self._push_dtype.size if block.trainable else 4)
        lines = [
            f"{device}: {total / 1e6:.1f} MB in {blocks} blocks"
            for device, (blocks, total) in sorted(per_device.items())
        ]
        totals = [total for _, total in per_device.values()]
        lines.append(f"largest over smallest server: {max(totals) / min(totals):.3f}")
        lines.append(
            f"a step moves {(pull_bytes + push_bytes) / 1e6:.1f} MB "
            f"(pull {pull_bytes / 1e6:.1f} as {self._pull_dtype.name}, "
            f"push {push_bytes / 1e6:.1f} as {self._push_dtype.name})"
        )
        return lines


# What a checkpoint calls the kinds of state. Every checkpoint has all; a kind may be empty.
_SLOTS = ("mean_square", "momentum")
_KINDS = ("parameters", "ema", *_SLOTS)


def _sum_below(step):
    """0 + 1 + ... + (step - 1): what PULLED_STEP_SUM would be if no update had been stale."""
    return step * (step - 1) / 2


def _check_is_of(layout, kind, state):
    """CheckpointError unless these tensors of a state are the network's, by path and shape."""
    wanted = {
        tensor.path: tensor.shape
        for segment, tensors in layout.segments()
        for tensor in tensors
        if kind not in _SLOTS or segment != "statistics"
    }
    found = {path: value.shape for path, value in state[kind].items()}
    others = [path for path in wanted | found if wanted.get(path) != found.get(path)]
    if others:
        told = ", ".join(
            f"{path} is {wanted.get(path, 'nothing')} here and {found.get(path, 'nothing')} there"
            for path in others[:3]
        )
        raise CheckpointError(
            f"The checkpoint of step {state['step']:,} is of another network: {len(others)} of its "
            f"{kind} differ in name or shape: {told}. Train on with the code and the packages that "
            "the run's versions.jsonl names, or train into another folder."
        )


def _with_zeros(layout, values):
    """Slots exist for trainable tensors alone: zeros stand in for the statistics."""
    zeros = {tensor.path: np.zeros(tensor.shape, np.float32) for tensor in layout.statistics}
    return zeros | values
