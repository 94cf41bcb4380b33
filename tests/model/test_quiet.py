"""TensorFlow, started by us or before us."""

import subprocess
import sys


def test_a_tensorflow_that_runs_already_is_taken_as_it_is():
    code = (
        "import tensorflow as tf; tf.constant(0);"
        "from model import quiet; quiet.start_tensorflow(); print('started')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert done.stdout == b"started\n", done.stderr
