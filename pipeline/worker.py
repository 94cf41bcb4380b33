"""A Beam worker process of this machine, started by pipeline.local_runner.

It keeps quiet: what goes wrong comes back to the launcher as an exception, and is said there, once.
It dies with the launcher, however that dies, so that no two runs write into one folder.
"""

import ctypes
import logging
import os
import signal
import sys

LAUNCHER = "SHARDING_LAUNCHER_PID"  # environment variable
_PR_SET_PDEATHSIG = 1


def _die_with_launcher() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[LAUNCHER]):
        sys.exit(1)  # it was quicker


if __name__ == "__main__":
    _die_with_launcher()
    logging.disable(logging.CRITICAL)  # before Beam is imported, which warns of optional packages
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)
