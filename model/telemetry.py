"""What people and programs see of a run while it trains: a progress line and RUN/metrics.jsonl."""

import json
import sys
import time
from pathlib import Path


def report(message):
    """Prints one line for people, at once."""
    print(message, file=sys.stderr, flush=True)


class Telemetry:
    """Turns the store's counters into lines, one each `log_every` seconds.

    Args:
        config: a Config.
        run_dir: folder that gets metrics.jsonl.
        progress: ParameterStore.progress() at the start.
        learning_rate: function of (step, samples) giving the rate.
        seconds_before: seconds of training that earlier processes spent on this run.
    """

    def __init__(self, config, run_dir, progress, learning_rate, seconds_before):
        self._config = config
        self._path = Path(run_dir) / "metrics.jsonl"
        self._learning_rate = learning_rate
        self._started = self._last_time = time.monotonic()
        self._seconds_before = seconds_before
        self._first = self._last = progress

    @property
    def seconds(self):
        """Seconds of training in all processes that led here."""
        return self._seconds_before + time.monotonic() - self._started

    def update(self, progress, final=False):
        """Logs if it is time to, or if this is the `final` call."""
        now, last = time.monotonic(), self._last
        interval = now - self._last_time
        steps = progress.step - last.step
        if steps <= 0 or not (final or interval >= self._config.train.log_every):
            return
        metrics = {
            "step": progress.step,
            "samples": progress.samples,
            "seconds": round(self.seconds, 2),
            "train/loss": (progress.loss_sum - last.loss_sum) / steps,
            "train/learning_rate": self._learning_rate(progress.step, progress.samples),
            "train/images_per_second": (progress.samples - last.samples) / interval,
            "train/staleness": (progress.staleness_sum - last.staleness_sum) / steps,
        }
        self._last, self._last_time = progress, now
        with open(self._path, "a") as file:
            file.write(json.dumps(metrics) + "\n")
        report(self._line(metrics))

    def _line(self, metrics):
        total = self._config.train.samples
        here = self.seconds - self._seconds_before
        speed = (metrics["samples"] - self._first.samples) / max(here, 1e-9)
        left = max(0, total - metrics["samples"]) / max(speed, 1e-9)
        return (
            f"step {metrics['step']:>7,}  {metrics['samples']:>9,} of {total:,} images"
            f"  {metrics['train/images_per_second']:6.1f} images/s"
            f"  loss {metrics['train/loss']:8.4f}  rate {metrics['train/learning_rate']:.2e}"
            f"  staleness {metrics['train/staleness']:.1f}  left {_clock(left)}"
        )


def _clock(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
