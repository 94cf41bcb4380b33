"""Progress of one evaluation on stderr: one line, rewritten, on a terminal; else now and then."""

import sys
import time
from types import TracebackType

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_REWRITES = 0.5


class Progress:
    """Counts images; quiet where everything takes only seconds."""

    def __init__(self, what: str, total: int):
        self._what, self._total, self._done = what, total, 0
        self._terminal = sys.stderr.isatty()
        self._interval = _SECONDS_BETWEEN_REWRITES if self._terminal else _SECONDS_BETWEEN_LINES
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def advance(self, num_images: int) -> None:
        self._done += num_images
        now = time.monotonic()
        if now - self._shown < self._interval:
            return
        self._shown = now
        rate = self._done / (now - self._started)
        line = (
            f"{self._what}: {self._done:,} of {self._total:,} images, {rate:,.0f} a second, "
            f"{max(0, self._total - self._done) / rate:,.0f} s to go"
        )
        start, end = ("\r\033[K", "") if self._terminal else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
