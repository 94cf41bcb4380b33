"""SIGTERM and Ctrl-C: they end a process at once, or when it has saved what it holds."""

import contextlib
import signal


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. A KeyboardInterrupt, so that no library swallows it."""

    def __init__(self, number, message=""):
        super().__init__(message)
        self.number = number
        self.message = message


class Signals:
    """Turns SIGTERM and SIGINT into `Interrupted` within a `with` block, in the main thread.

    Within `deferred()` they are only noted in `received`, for the work to look at when it can end
    well; a second Ctrl-C ends it there, too.
    """

    def __init__(self):
        self.received = None
        self._defers = False

    def __enter__(self):
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self):
        """A block that ends by itself once `received` is set."""
        self._defers = True
        try:
            yield
        finally:
            self._defers = False

    def _handle(self, number, frame):
        impatient = self.received is not None and number == signal.SIGINT
        self.received = number
        if impatient or not self._defers:
            raise Interrupted(number)
