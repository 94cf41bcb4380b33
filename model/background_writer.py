"""Writes checkpoints beside the training loop, one at a time."""

import threading


class BackgroundWriter:
    """Calls `write` in a thread of its own, so that the chief goes on keeping workers busy.

    Args:
        write: a function that returns what it wrote; it gets what `start` is given.
    """

    def __init__(self, write):
        self._write = write
        self._thread = None
        self._result = None
        self._error = None

    def start(self, *arguments):
        """Begins to write, unless it still does; returns whether it began."""
        if self._thread is not None:
            return False
        self._thread = threading.Thread(
            target=self._run, args=arguments, name="background writer", daemon=True
        )
        self._thread.start()
        return True

    @property
    def is_busy(self):
        """Whether something was begun whose outcome `poll` has not told."""
        return self._thread is not None

    def wait(self, seconds):
        """Returns when it has ended, or after so many seconds."""
        if self._thread is not None:
            self._thread.join(seconds)

    def poll(self):
        """What was written, once, when it is; None otherwise. Raises what went wrong."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread = None
        result, error, self._result, self._error = self._result, self._error, None, None
        if error is not None:
            raise error
        return result

    def _run(self, *arguments):
        try:
            self._result = self._write(*arguments)
        except BaseException as error:
            self._error = error
