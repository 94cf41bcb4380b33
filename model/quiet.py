"""Starts TensorFlow without the dozen lines about CUDA and oneDNN that it prints at its start."""

import os
import sys
import tempfile


def start_tensorflow(inter_op_threads=0, intra_op_threads=0, *, initialize=True):
    """Imports TensorFlow and Keras and starts the runtime, holding back what they write to stderr.

    What was held back is written after all if the start fails. TF_CPP_MIN_LOG_LEVEL does not reach
    these lines: most are written before TensorFlow has set its logging up.

    Args:
        inter_op_threads, intra_op_threads: sizes of the runtime's thread pools; 0: a thread a core.
        initialize: starts the runtime; false where the process joins others, which does it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        stderr = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            import keras  # noqa: F401
            import tensorflow as tf

            if inter_op_threads:  # a runtime that others have started already takes no size
                tf.config.threading.set_inter_op_parallelism_threads(inter_op_threads)
            if intra_op_threads:
                tf.config.threading.set_intra_op_parallelism_threads(intra_op_threads)
            if initialize:
                tf.constant(0)
            else:
                tf.config.list_physical_devices()  # says the rest of what is to be held back
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def limit_threads(count):
    """Sets both thread pools of a TensorFlow that starts in this process later."""
    for pool in ("INTRAOP", "INTEROP"):
        os.environ[f"TF_NUM_{pool}_THREADS"] = str(count)
