"""A line on stderr while a job runs: shards done, images a second, failures, time left.

It looks at the commits that appear in the output folder, so it says the same for every runner.
"""

import sys
import threading
import time
from types import TracebackType

from pipeline import storage
from pipeline.dead_letter import DeadLetter
from pipeline.run_state import Run
from pipeline.sharding import commits_pattern, read_commit

_SECONDS_BETWEEN_LOOKS = 2.0


class Progress:
    """A context: prints while it is open."""

    def __init__(self, run: Run) -> None:
        recipe = run.plan.recipe
        self._pattern = commits_pattern(run.plan.output, recipe.split, recipe.num_shards)
        self._num_shards = recipe.num_shards
        self._seen: set[str] = set(storage.match(self._pattern))  # of an earlier run
        self._num_earlier = len(self._seen)
        self._num_images = self._num_lost = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        if self._num_earlier:
            print(f"{self._num_earlier} of {self._num_shards} shards are there", file=sys.stderr)
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            if self._look():
                print(self._line(), file=sys.stderr, flush=True)

    def _look(self) -> bool:
        """Counts the commits that are new; False where none is."""
        new = set(storage.match(self._pattern)) - self._seen
        for path in new:
            commit = read_commit(path)
            if commit is not None:
                self._num_images += commit.num_examples
                self._num_lost += sum(map(_loses_image, commit.dead_letters))
        self._seen |= new
        return bool(new)

    def _line(self) -> str:
        elapsed = time.monotonic() - self._start
        num_done = len(self._seen)
        num_written = num_done - self._num_earlier
        left = elapsed / num_written * (self._num_shards - num_done)
        return (
            f"{num_done:,} of {self._num_shards:,} shards, "
            f"{self._num_images / elapsed:,.0f} images/s, {self._num_lost:,} lost, "
            f"{_duration(left)} left"
        )


def _loses_image(letter: DeadLetter) -> bool:
    return letter.loses_image


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
