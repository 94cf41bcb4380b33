"""What notices silence: of this process's own calls, and of single workers.

Both measure on this process's clock alone, so the hosts of a cluster need not agree on the time.
"""

import signal
import threading
import time

LONGEST_LOOK = 5.0  # seconds of silence that one look can add, see WorkerWatch


class Watchdog:
    """Calls a function when it has not been fed for `timeout` seconds, within a `with` block.

    It begins to watch when it is fed for the first time, and is patient for `first_timeout` seconds
    until `settle` is called: a start has much to do that is no wait.

    For what blocks inside TensorFlow without a deadline: a read from a ps that is stopped. The
    function gets what `feed` said would come next, and the seconds.

    TensorFlow can also stop every thread of Python's, this one too. With `has_alarm` the kernel
    then ends the process, by SIGALRM, after twice the timeout.
    """

    def __init__(self, first_timeout, timeout, function, has_alarm=False):
        self._timeout = first_timeout
        self._settled_timeout = timeout
        self._function = function
        self._has_alarm = has_alarm
        self._doing = ""
        self._fed = float("inf")
        self._ended = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        if self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def settle(self):
        """Says that what only a start has to do is done."""
        self._timeout = self._settled_timeout

    def feed(self, doing):
        """Says that all is well, and what is done next."""
        self._doing, self._fed = doing, time.monotonic()
        if self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 2 * self._timeout)

    def _watch(self):
        while not self._ended.wait(min(self._timeout / 10, 10.0)):
            if time.monotonic() - self._fed > self._timeout:
                self._function(self._doing, self._timeout)
                return


class WorkerWatch:
    """Finds the workers that have stopped, from a counter of each that only a running one moves.

    Args:
        counts: the counters at the start.
        timeout: seconds without a movement after which a worker counts as hung.
        first_timeout: the same, until the first movement.
        now: seconds on any clock that only goes forward.
    """

    def __init__(self, counts, timeout, first_timeout, now):
        self._counts = list(counts)
        self._timeout = timeout
        self._timeouts = [first_timeout] * len(self._counts)
        self._silent = [0.0] * len(self._counts)
        self._said = [0] * len(self._counts)  # how often a worker was found in this silence
        self._looked = now

    def look(self, counts, now):
        """(hung, back): [(worker, seconds of silence, first time?)], and workers that move again.

        A hung worker is named again whenever another `timeout` has passed. One look adds at most
        LONGEST_LOOK seconds: what this process slept through was no silence of the workers.
        """
        elapsed = min(now - self._looked, LONGEST_LOOK)
        self._looked = now
        hung, back = [], []
        for worker, count in enumerate(counts):
            if count != self._counts[worker]:
                self._counts[worker], self._timeouts[worker] = count, self._timeout
                if self._said[worker]:
                    back.append(worker)
                self._silent[worker], self._said[worker] = 0.0, 0
                continue
            self._silent[worker] += elapsed
            if self._silent[worker] >= self._timeouts[worker] * (self._said[worker] + 1):
                self._said[worker] += 1
                hung.append((worker, self._silent[worker], self._said[worker] == 1))
        return hung, back

    def silent_for(self, timeouts):
        """The workers that have not moved for so many timeouts."""
        return [worker for worker, times in enumerate(self._said) if times >= timeouts]
