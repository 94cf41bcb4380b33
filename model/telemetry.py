"""What people and programs see of a run while it trains.

One line each `train.log_every` seconds on the terminal; the same and more in RUN/metrics.jsonl and,
for TensorBoard, in RUN/tensorboard: what is below is a name in both.

    train/loss, train/learning_rate, train/images_per_second
    train/staleness                     updates by others between a step's pull and its push
    train/workers_alive                 on a cluster: workers that take connections
    input/damaged_records               left out so far

and once in ROLES_EVERY seconds, as sixty workers are many:

    worker/0/images_per_second          and of each step of this worker, on average:
    worker/0/pull_seconds, worker/0/compute_seconds, worker/0/push_seconds
    ps/0/megabytes_per_second           parameters and gradients, both ways
"""

import json
import sys
import time
from pathlib import Path

from model.event_files import EventFiles

ROLES_EVERY = 60.0  # seconds between lines that tell of each worker and ps, too


def report(message):
    """Prints one line for people, at once."""
    print(message, file=sys.stderr, flush=True)


class Telemetry:
    """Turns the store's counters into lines, one each `log_every` seconds.

    Args:
        config: a Config.
        run_dir: folder that gets metrics.jsonl and tensorboard/.
        store: the ParameterStore.
        learning_rate: function of (step, samples) giving the rate.
        seconds_before: seconds of training that earlier processes spent on this run.
        workers_alive: function that gives (workers alive, workers in all); None in one process.
    """

    def __init__(self, config, run_dir, store, learning_rate, seconds_before, workers_alive=None):
        self._config = config
        self._path = Path(run_dir) / "metrics.jsonl"
        self._events = EventFiles(Path(run_dir) / "tensorboard")
        self._store = store
        self._learning_rate = learning_rate
        self._workers_alive = workers_alive
        self._started = self._last_time = time.monotonic()
        self._seconds_before = seconds_before
        self._first = self._last = store.progress()
        self._last_of_roles = self._started, self._first.step, store.work()

    @property
    def seconds(self):
        """Seconds of training in all processes that led here."""
        return self._seconds_before + time.monotonic() - self._started

    def update(self, progress, damaged_records=0, final=False):
        """Logs if it is time to, or if this is the `final` call."""
        now, last = time.monotonic(), self._last
        interval = now - self._last_time
        steps = progress.step - last.step
        if steps <= 0 or not (final or interval >= self._config.train.log_every):
            return
        metrics = {
            "train/loss": (progress.loss_sum - last.loss_sum) / steps,
            "train/learning_rate": self._learning_rate(progress.step, progress.samples),
            "train/images_per_second": (progress.samples - last.samples) / interval,
            "train/staleness": (progress.staleness_sum - last.staleness_sum) / steps,
            "input/damaged_records": damaged_records,
        }
        if self._workers_alive is not None:
            metrics["train/workers_alive"], self._num_workers = self._workers_alive()
        if final or now - self._last_of_roles[0] >= ROLES_EVERY:
            metrics.update(self._metrics_of_roles(now, progress.step))
        self._last, self._last_time = progress, now
        counters = {
            "step": progress.step,
            "samples": progress.samples,
            "seconds": round(self.seconds, 2),
        }
        report(self._line({**counters, **metrics}))
        try:
            with open(self._path, "a") as file:
                file.write(json.dumps({**counters, **metrics}) + "\n")
            self._events.add(progress.step, metrics)
        except OSError as error:  # a full disk is no reason to stop training
            report(f"This line is missing in {self._path}: {error.strerror}")

    def _metrics_of_roles(self, now, step):
        metrics = {}
        last_time, last_step, last_work = self._last_of_roles
        interval, work = now - last_time, self._store.work()
        for worker, (done, before) in enumerate(zip(work, last_work, strict=True)):
            name, taken = f"worker/{worker}", done.steps - before.steps
            metrics[f"{name}/images_per_second"] = (done.images - before.images) / interval
            if taken:
                for phase in ("pull", "compute", "push"):
                    spent = getattr(done, phase) - getattr(before, phase)
                    metrics[f"{name}/{phase}_seconds"] = spent / taken
        if self._workers_alive is not None:
            for ps, moved in enumerate(self._store.step_bytes().values()):
                rate = moved * (step - last_step) / interval / 1e6
                metrics[f"ps/{ps}/megabytes_per_second"] = rate
        self._last_of_roles = now, step, work
        return metrics

    def _line(self, metrics):
        total = self._config.train.samples
        here = self.seconds - self._seconds_before
        speed = (metrics["samples"] - self._first.samples) / max(here, 1e-9)
        left = max(0, total - metrics["samples"]) / max(speed, 1e-9)
        alive = ""
        if "train/workers_alive" in metrics:
            alive = f"  workers {metrics['train/workers_alive']} of {self._num_workers}"
        damaged = metrics["input/damaged_records"]
        return (
            f"step {metrics['step']:>7,}  {metrics['samples']:>9,} of {total:,} images"
            f"  {metrics['train/images_per_second']:6.1f} images/s"
            f"  loss {metrics['train/loss']:8.4f}  rate {metrics['train/learning_rate']:.2e}"
            f"  staleness {metrics['train/staleness']:.1f}{alive}"
            + (f"  damaged records {damaged}" if damaged else "")
            + f"  left {_clock(left)}"
        )


def _clock(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
