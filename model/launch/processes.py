"""Child processes that never outlive their parent."""

import contextlib
import ctypes
import signal
import subprocess
import sys
import time

STOP_TIMEOUT = 10.0  # seconds between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG = 1


def start(command, **options):
    """`subprocess.Popen` of a process that the kernel kills when this one dies (on Linux)."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, **options
    )


def stop(processes, timeout=STOP_TIMEOUT):
    """Ends the processes: SIGTERM, and SIGKILL to those that are still there `timeout` s later."""
    alive = [process for process in processes if process.poll() is None]
    for process in alive:
        process.terminate()
    deadline = time.monotonic() + timeout
    for process in alive:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in alive:
        if process.poll() is None:
            process.kill()
            process.wait()


def raise_interrupt_on_sigterm():
    """Makes SIGTERM end this process as Ctrl-C does: through its `finally` and `with` blocks."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def die_with_parent():
    """Lets the kernel kill this process when its parent dies (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
