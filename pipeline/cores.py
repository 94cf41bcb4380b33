"""How many cores this process may use."""

import os


def num_cores() -> int:
    """Fewer than the machine's where the process is pinned to some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
