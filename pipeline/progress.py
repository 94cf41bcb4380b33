"""A line on stderr while a job runs: what it does, shards done, images a second, time left.

It looks at the files that appear in the output folder, so it says the same for every runner.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from pipeline import storage
from pipeline.planning import Run
from pipeline.sharding import commits_folder, commits_pattern, read_commit

_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_OF_SILENCE = 10.0  # at most

# (seconds since the start, whether it is time to say anything at all) to what there is to say
_Line = Callable[[float, bool], str | None]


@contextlib.contextmanager
def shown(line: _Line) -> Iterator[None]:
    """Prints from a thread what `line` has to say, every now and then, while the block runs."""
    ended = threading.Event()
    started = time.monotonic()

    def run() -> None:
        spoke = started
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            now = time.monotonic()
            text = line(now - started, now - spoke >= _SECONDS_OF_SILENCE)
            if text:
                spoke = now
                print(text, file=sys.stderr, flush=True)

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def of_survey(num_rows: int) -> _Line:
    """What there is to say while rows are counted."""

    def line(elapsed: float, is_due: bool) -> str | None:
        return f"counting {num_rows:,} rows, {_duration(elapsed)} so far" if is_due else None

    return line


def of_shards(run: Run) -> _Line:
    """What there is to say while the shards of a split are written."""
    recipe = run.plan.recipe
    pattern = commits_pattern(run.plan.output, recipe.split, recipe.num_shards)
    folder = commits_folder(run.plan.output, recipe.split)
    being_written = storage.join(folder, "*" + storage.TEMPORARY_SUFFIX)
    seen = set(storage.match(pattern))  # of an earlier run
    num_earlier = len(seen)
    if seen:
        print(f"{recipe.split}: {num_earlier} of {recipe.num_shards} shards are there",
              file=sys.stderr)  # fmt: skip
    num_images = num_lost = 0

    def line(elapsed: float, is_due: bool) -> str | None:
        nonlocal num_images, num_lost
        new = set(storage.match(pattern)) - seen
        for path in new:
            commit = read_commit(path)
            if commit is not None:
                num_images += commit.num_examples
                num_lost += len(commit.dead_letters)
        seen.update(new)
        if not new and not is_due:
            return None
        num_written = len(seen) - num_earlier
        sizes = storage.sizes(being_written)
        if num_written:
            left = elapsed / num_written * (recipe.num_shards - len(seen))
            doing = f"{num_images / elapsed:,.0f} images/s, {num_lost:,} lost, "
            doing += f"{_duration(left)} left"
        elif sizes:
            doing = f"{sum(sizes.values()) / 1e6:,.0f} MB of the first ones written"
        else:
            doing = f"rows are read and shuffled, {_duration(elapsed)} so far"
        return f"{recipe.split}: {len(seen):,} of {recipe.num_shards:,} shards, {doing}"

    return line


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
