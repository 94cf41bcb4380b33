"""Asynchronous training: the loop that the chief runs, over a cluster or in one process.

The chief takes no steps. It keeps every worker's queue filled with closures of several steps,
watches the store's counters, and writes progress lines and checkpoints. The counters live in the
store, so that they count what was applied, whatever was scheduled, lost or repeated on the way.
"""

import contextlib
import os
import re
import threading
import time

import numpy as np
import tensorflow as tf

from model import checkpoint, optimizers
from model.cluster import EXIT_TRY_AGAIN, ClusterError
from model.input import SINGLE_LABEL_RULE, forget_seed, training_dataset
from model.run_folder import TrainingError
from model.telemetry import Telemetry, report
from model.training_step import NOT_FINITE, training_step


class Watchdog:
    """Calls a function when it has not been fed for `timeout` seconds, within a `with` block.

    For what blocks inside TensorFlow without a deadline: a read from a ps that is stopped.
    """

    def __init__(self, timeout, function):
        self._timeout = timeout
        self._function = function
        self._fed = time.monotonic()
        self._ended = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._ended.set()

    def feed(self):
        """Says that all is well."""
        self._fed = time.monotonic()

    def _watch(self):
        while not self._ended.wait(self._timeout / 10):
            if time.monotonic() - self._fed > self._timeout:
                self._function()
                return


class InProcess:
    """Takes the steps in this process."""

    def __init__(self, take_steps, dataset_fn):
        self._take_steps = take_steps
        self._iterator = iter(dataset_fn())

    def advance(self, steps_done, steps_wanted):
        """Takes some steps."""
        del steps_done, steps_wanted
        self._take_steps(self._iterator)


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


def make_executor(config, network, store, split, cluster=None, coordinator=None, group=None):
    """What takes the steps: the workers of a coordinator, or this process where there is none.

    `group`: the sync_trainer.Group that this process takes every step with.
    """

    def unrolled(iterator):
        # 60, 177 and 242 trivial steps/s at 1, 8 and 32 steps a closure, where a loop inside the
        # graph is slower.
        applied: list = []
        for _ in range(config.train.steps_per_closure):
            with tf.control_dependencies(applied):  # so that the next step's time begins after it
                images, targets = next(iterator)
            applied = [training_step(config, network, store, images, targets, group)]

    @tf.function(autograph=False)
    def take_steps(iterator):
        if group:
            group.run(lambda: unrolled(iterator))
        else:
            unrolled(iterator)

    def dataset_fn():
        return training_dataset(config, split.shard_paths)

    forget_seed()
    if coordinator is None:
        return InProcess(take_steps, dataset_fn)
    return OnCluster(cluster, coordinator, take_steps, dataset_fn, config.train.steps_per_closure)


def train(config, store, executor, run_dir, vocabulary, seconds_before=0.0):
    """Trains until the store has counted `train.samples` images, and checkpoints that.

    Returns {"step", "samples", "seconds"}: how far it came, and how long it took
    together with the `seconds_before` that earlier processes spent on the run.

    Raises:
        ClusterError: a ps was lost, or no step was taken for `train.stall_timeout` seconds.
        TrainingError: the loss is not finite, or the input is damaged.
    """

    def rate(step, samples):
        return float(optimizers.learning_rate(config, tf.constant(step), tf.constant(samples)))

    def save():
        started = time.monotonic()
        state = {**store.export(), "seconds": telemetry.seconds}
        _check_finite(state["parameters"])
        saved = checkpoint.save(run_dir, state, config, vocabulary)
        report(f"wrote {saved.path} in {time.monotonic() - started:.1f} s")
        return {key: state[key] for key in ("step", "samples", "seconds")}

    def give_up():
        report(f"model.train: no answer from a parameter server for {stall_timeout:.0f} s")
        os._exit(EXIT_TRY_AGAIN)

    stall_timeout = config.train.stall_timeout
    with errors_in_words(), Watchdog(stall_timeout, give_up) as watchdog:
        progress = store.progress()
        first_step = progress.step
        telemetry = Telemetry(config, run_dir, store, rate, seconds_before)
        last_checkpoint = last_step_at = time.monotonic()
        while progress.samples < config.train.samples:
            step = progress.step
            steps_missing = -(-(config.train.samples - progress.samples) // config.input.batch_size)
            executor.advance(step, step + steps_missing)
            progress = store.progress()
            telemetry.update(progress)
            watchdog.feed()
            now = time.monotonic()
            if progress.step > step:
                last_step_at = now
            elif now - last_step_at > stall_timeout:
                save()  # the servers answer: nothing needs to be lost
                raise ClusterError(
                    f"No worker has finished a step for {stall_timeout:.0f} s, since step {step}."
                )
            if now - last_checkpoint > config.train.checkpoint_every and step > first_step:
                save()
                last_checkpoint = now
        # What is still on its way on a cluster is not waited for: enough has been counted, and the
        # worker that takes it may hang.
        telemetry.update(progress, final=True)
        return save()


def _check_finite(parameters):
    for path, value in parameters.items():
        if not np.isfinite(value).all():
            raise TrainingError(
                f"{path} holds NaN or infinity, so no checkpoint was written of it; the one before "
                "is kept. Lower optimizer.learning_rate or raise optimizer.warmup."
            )


@contextlib.contextmanager
def errors_in_words():
    """Turns TensorFlow's errors of the training loop into this project's."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if SINGLE_LABEL_RULE in str(error):
            raise TrainingError(
                f"{_core_of(error)}. Choose another loss, or train on a split in which every image "
                "has one label."
            ) from error
        if NOT_FINITE not in str(error):
            raise
        raise TrainingError(
            f"{_core_of(error)}. The step was not applied, and the newest "
            "checkpoint is from before; lower optimizer.learning_rate, raise optimizer.warmup or "
            "set optimizer.max_gradient_norm."
        ) from error
    except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
        raise TrainingError(
            f"A shard is damaged or gone: {_core_of(error)}. `python -m pipeline.verify` names "
            "what is wrong; the pipeline writes the shard anew."
        ) from error
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        raise ClusterError(
            f"A parameter server, or a process of a synchronous training, was lost: "
            f"{_core_of(error)}"
        ) from error


def _core_of(error):
    """What a TensorFlow error says, without the graph and the stack around it."""
    assertion = re.search(r"assertion failed: \[(.*)\]", str(error))
    if assertion:
        return assertion[1].replace("] [", " ")
    found = re.search(r"(corrupted|truncated) record at \d+|[^\n;]*No such file[^\n]*", str(error))
    return found[0] if found else str(error).strip().split("\n")[0][:300]
