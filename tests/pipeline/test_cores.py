"""How many cores a process takes threads and processes for."""

import os
import subprocess
import sys

import pytest

from pipeline.cores import num_cores


def test_all_that_the_process_may_use_are_counted():
    assert 1 <= num_cores() <= os.cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot pin a process here")
def test_a_pinned_process_counts_its_own_alone():
    code = (
        "import os; from pipeline.cores import num_cores;"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(num_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.stdout == b"1\n"
