"""Asynchronous training: the loop that the chief runs, over a cluster or in one process.

The chief has steps taken (executors.py), watches the store's counters, and writes progress lines
and checkpoints. The counters live in the store, so that they count what was applied, whatever was
scheduled, lost or repeated on the way.
"""

import contextlib
import re
import time

import numpy as np
import tensorflow as tf

from model import checkpoint, optimizers, run_folder, tensorflow_errors
from model.background_writer import BackgroundWriter
from model.cluster import ClusterError
from model.interruption import Interrupted
from model.run_folder import TrainingError
from model.telemetry import Telemetry, report


def train(config, store, executor, run_dir, vocabulary, *, watchdog, signals, seconds_before=0.0):
    """Trains until the store has counted `train.samples` images, and checkpoints that.

    Returns {"step", "samples", "seconds"}: how far it came, and how long it took
    together with the `seconds_before` that earlier processes spent on the run.

    Raises:
        ClusterError: a ps was lost or is about to leave, no step was taken for
            `train.stall_timeout` seconds, a checkpoint hangs for as long, workers wait that only a
            new start can take in, or the disk stayed full at the end.
        Interrupted: by a signal, after a checkpoint.
        TrainingError: the loss is not finite, or the input is damaged.
    """

    def rate(step, samples):
        return float(optimizers.learning_rate(config, tf.constant(step), tf.constant(samples)))

    stall_timeout, first_timeout = config.train.stall_timeout, config.train.first_timeout
    events = run_folder.Events(run_dir)
    with tensorflow_errors.in_words(), signals.deferred():
        watchdog.feed("reading the counters")
        progress = store.progress()
        first_step = progress.step
        telemetry = Telemetry(config, run_dir, store, rate, seconds_before, executor.workers_alive)
        saver = _Saver(config, store, run_dir, vocabulary, telemetry, watchdog)
        last_checkpoint = last_step_at = time.monotonic()
        while progress.samples < config.train.samples:
            step = progress.step
            steps_missing = -(-(config.train.samples - progress.samples) // config.input.batch_size)
            watchdog.feed(f"training after step {step:,}")
            with _saved_before_an_end(saver, store, first_step):
                _advance(executor, step, step + steps_missing)
            progress = store.progress()
            watchdog.feed(f"writing to {run_dir} after step {step:,}")
            telemetry.update(progress, _count(executor.damaged))
            now = time.monotonic()
            timeout = stall_timeout if step > first_step else first_timeout
            if progress.step > step:
                last_step_at = now
                watchdog.settle()
            elif now - last_step_at > timeout:
                saver.save()  # the servers answer: nothing needs to be lost
                raise ClusterError(
                    f"No worker has finished a step for {timeout:.0f} s, since step {step}."
                )
            _end_if_asked(signals, events, run_dir, saver.save)
            if now - last_checkpoint > config.train.checkpoint_every and step > first_step:
                _start_anew_if_more_can_join(executor, saver)
                saver.start(reads_first=executor.is_here)
                last_checkpoint = now
            saver.poll()
        # What is still on its way on a cluster is not waited for: enough has been counted, and the
        # worker that takes it may hang.
        telemetry.update(progress, _count(executor.damaged), final=True)
        deadline = time.monotonic() + stall_timeout
        while (end := saver.save()) is None:
            if signals.received is not None or time.monotonic() > deadline:
                raise ClusterError("Training is done and its last checkpoint could not be written.")
            time.sleep(5.0)
        return end


class _Saver:
    """Writes the checkpoints of a training.

    A disk that takes none is said, and never an end. One that has not answered for
    `train.stall_timeout` seconds ends training with a ClusterError.
    """

    def __init__(self, config, store, run_dir, vocabulary, telemetry, watchdog):
        self._config, self._store, self._vocabulary = config, store, vocabulary
        self._run_dir, self._telemetry, self._watchdog = run_dir, telemetry, watchdog
        self._writer = BackgroundWriter(self._write)
        self._writing_since = None  # time.monotonic() when what was read began to be written

    def start(self, reads_first):
        """Begins one while workers go on.

        `reads_first`: steps that this process takes wait until it is read, so that all of the
        checkpoint is of one step.
        """
        self._writer.start(self._read() if reads_first else None)

    def poll(self):
        """Says what went wrong with the one that was begun; what it is, once, if nothing has."""
        since, timeout = self._writing_since, self._config.train.stall_timeout
        if since is not None and time.monotonic() - since > timeout:
            raise ClusterError(
                f"A checkpoint could not be written within {timeout:.0f} s "
                f"(train.stall_timeout): {self._run_dir}/checkpoints does not answer. See to its "
                "disk or network; the next start goes on from the checkpoint before."
            )
        return self._try_to(self._writer.poll)

    def save(self, when_read=lambda: None):
        """Writes one now: {"step", "samples", "seconds"} of it, None where that fails.

        `when_read` is called when the parameters are read, which is before the one that was begun
        is written: from then on no ps is needed.
        """
        self._watchdog.feed("reading the parameters for a checkpoint")
        state = self._read()
        when_read()
        self._finish()
        self._writer.start(state)
        return self._finish()

    def _finish(self):
        saved = None
        while self._writer.is_busy:
            if self._writing_since is not None:  # which has a deadline of its own
                self._watchdog.feed("writing a checkpoint")
            self._writer.wait(1.0)
            saved = self.poll()
        return saved

    def _read(self):
        return {**self._store.export(), "seconds": self._telemetry.seconds}

    def _write(self, state=None):
        started = time.monotonic()
        state = state or self._read()
        _check_finite(state["parameters"])
        self._writing_since = time.monotonic()
        try:
            saved = checkpoint.save(self._run_dir, state, self._config, self._vocabulary)
        finally:
            self._writing_since = None
        report(f"wrote {saved.path} in {time.monotonic() - started:.1f} s")
        return {key: state[key] for key in ("step", "samples", "seconds")}

    def _try_to(self, function):
        try:
            return function()
        except OSError as error:
            report(f"No checkpoint was written, training goes on and will try again: {error}")
            return None


@contextlib.contextmanager
def _saved_before_an_end(saver, store, first_step):
    """Saves first where something ends training that the parameters have no part in.

    One host of sixty whose disk is full, or a shard that is gone: no step is lost by it.
    """
    try:
        yield
    except Exception as error:
        if tensorflow_errors.leaves_parameters_whole(error) and store.progress().step > first_step:
            saver.save()
        raise


def _advance(executor, step, steps_wanted):
    try:
        executor.advance(step, steps_wanted)
    except tf.errors.DataLossError as error:
        _mend(executor, error)


def _mend(executor, error):
    """Leaves out the damaged record that this error is about, and goes on reading without it."""
    found = re.search(r"record at (\d+)", str(error))
    if executor.damaged is None or found is None:
        raise error
    for line in executor.damaged.mend(int(found[1])):
        report(line)
    executor.restart_input()


def _count(damaged):
    return damaged.count if damaged else 0


def _end_if_asked(signals, events, run_dir, save):
    """Saves and raises if a signal came, or a ps says that it has to leave."""

    def release_servers():
        run_folder.add_event(run_dir, "chief 0", "read")

    if signals.received is not None:
        raise Interrupted(signals.received, _what_is_kept(save(release_servers)))
    for event in events.new():
        if event["event"] == "leaving":
            saved = save(release_servers)
            raise ClusterError(f"{event['task']} has to leave; {_what_is_kept(saved)}.")


def _start_anew_if_more_can_join(executor, saver):
    """Saves and raises if workers are there that can take part only when all start again."""
    reason = executor.why_start_anew()
    if reason is not None and (saved := saver.save()) is not None:
        raise ClusterError(f"{reason}; {_what_is_kept(saved)}.")


def _what_is_kept(saved):
    if saved is None:
        return "the next start goes on from the newest checkpoint"
    return f"step {saved['step']:,} is saved, and the next start goes on from there"


def _check_finite(parameters):
    for path, value in parameters.items():
        if not np.isfinite(value).all():
            raise TrainingError(
                f"{path} holds NaN or infinity, so no checkpoint was written of it; the one before "
                "is kept. Lower optimizer.learning_rate or raise optimizer.warmup."
            )
