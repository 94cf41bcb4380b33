"""Asynchronous training: the loop that the chief runs, over a cluster or in one process.

The chief takes no steps. It keeps every worker's queue filled with closures of several steps,
watches the store's counters, and writes progress lines and checkpoints. The counters live in the
store, so that they count what was applied, whatever was scheduled, lost or repeated on the way.
"""

import time

import tensorflow as tf

from model import checkpoint, optimizers
from model.cluster import ClusterError
from model.input import training_dataset
from model.telemetry import Telemetry, report
from model.training_step import training_step


class TrainingError(Exception):
    """Training cannot go on from here, and starting it again as it is would not help."""


class InProcess:
    """Takes the steps in this process."""

    def __init__(self, take_steps, dataset_fn):
        self._take_steps = take_steps
        self._iterator = iter(dataset_fn())

    def advance(self, steps_done, steps_wanted):
        """Takes some steps. Returns whether all are done."""
        del steps_done, steps_wanted
        self._take_steps(self._iterator)

    def close(self):
        """Nothing is left running."""


class OnCluster:
    """Hands closures to the workers and lets them run; a dead worker's closure goes to another."""

    def __init__(self, cluster, coordinator, take_steps, dataset_fn, steps_per_closure):
        self._coordinator = coordinator
        self._take_steps = take_steps
        self._iterator = iter(coordinator.create_per_worker_dataset(tf.function(dataset_fn)))
        self._steps_per_closure = steps_per_closure
        self._queue_steps = 2 * cluster.num_workers * steps_per_closure
        self._scheduled = 0
        self._first_step = None

    def advance(self, steps_done, steps_wanted):
        """Fills the queue up, never beyond what is wanted, and gives the workers a moment."""
        if self._first_step is None:
            self._first_step = steps_done
        in_flight = self._scheduled - (steps_done - self._first_step)
        missing = min(self._queue_steps - in_flight, steps_wanted - steps_done - in_flight)
        for _ in range(-(-missing // self._steps_per_closure)):
            self._coordinator.schedule(self._take_steps, args=(self._iterator,))
            self._scheduled += self._steps_per_closure
        self._coordinator.done()  # raises what went wrong on a worker
        time.sleep(0.05)

    def close(self):
        """Waits until the workers have run what is in the queue."""
        deadline = time.monotonic() + 120.0
        while not self._coordinator.done():
            if time.monotonic() > deadline:
                raise ClusterError("The workers did not finish their last steps within 120 s.")
            time.sleep(0.05)


def steps_function(config, network, store):
    """A tf.function of a dataset's iterator that takes `steps_per_closure` steps.

    The steps are unrolled: 60, 177 and 242 trivial steps/s at 1, 8 and 32 of them a closure, where
    a loop inside the graph is slower.
    """

    @tf.function(autograph=False)
    def take_steps(iterator):
        for _ in range(config.train.steps_per_closure):
            images, labels = next(iterator)
            training_step(network, store, images, labels)

    return take_steps


def dataset_function(config, shard_paths):
    """A function without arguments that makes the training dataset."""
    return lambda: training_dataset(config, shard_paths)


def train(config, store, executor, run_dir, class_list_hash):
    """Trains until the store has counted `train.samples` images, and checkpoints that.

    Returns (step, samples, seconds of training).

    Raises:
        ClusterError: a ps was lost, or no step was taken for `train.stall_timeout` seconds.
        TrainingError: the loss is not finite, or the input is damaged.
    """
    progress = store.progress()

    def rate(step, samples):
        return float(optimizers.learning_rate(config, tf.constant(step), tf.constant(samples)))

    telemetry = Telemetry(config, run_dir, progress, rate)
    last_checkpoint = last_step_at = time.monotonic()
    try:
        while progress[1] < config.train.samples:
            step, samples = progress[:2]
            missing = config.train.samples - samples
            executor.advance(step, step + -(-missing // config.input.batch_size))
            progress = store.progress()
            now = time.monotonic()
            telemetry.update(progress)
            if progress[0] > step:
                last_step_at = now
            elif now - last_step_at > config.train.stall_timeout:
                raise ClusterError(
                    f"No worker has finished a step for {config.train.stall_timeout:.0f} s, "
                    f"since step {step}."
                )
            if now - last_checkpoint > config.train.checkpoint_every:
                _save(config, store, run_dir, class_list_hash)
                last_checkpoint = now
        executor.close()
        telemetry.update(store.progress(), final=True)
        _save(config, store, run_dir, class_list_hash)
    except tf.errors.InvalidArgumentError as error:
        if "not finite" not in str(error):
            raise
        raise TrainingError(
            f"The training loss became NaN or infinite after step {store.progress()[0]}. The last "
            "checkpoint is from before; lower optimizer.learning_rate or raise optimizer.warmup."
        ) from error
    except tf.errors.DataLossError as error:
        raise TrainingError(
            f"A shard is damaged: {error.message} "
            "`python -m pipeline.verify` names the record; the pipeline writes the shard anew."
        ) from error
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise ClusterError(f"A parameter server was lost: {_first_line(error)}") from error
    return *store.progress()[:2], telemetry.seconds


def _save(config, store, run_dir, class_list_hash):
    started = time.monotonic()
    saved = checkpoint.save(
        run_dir, store.export(), class_list_hash, keep=config.train.keep_checkpoints
    )
    report(f"wrote {saved.path} in {time.monotonic() - started:.1f} s")


def _first_line(error):
    return str(error).strip().split("\n")[0][:300]
