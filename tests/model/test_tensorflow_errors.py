"""What TensorFlow's errors become: words, and whether starting again helps."""

import pytest
import tensorflow as tf
from tensorflow.python.distribute.coordinator.cluster_coordinator import ClosureInputError

from model import tensorflow_errors
from model.cluster import ClusterError
from model.run_folder import TrainingError

_SHARD = "/data/images-train.tfrecord-00001-of-00003"
_STACK = "\n\t [[{{node IteratorGetNext}}]] [Op:__inference_take_steps_1]"


def _error(kind, message):
    return kind(None, None, f"{{{{function_node f}}}} {message}{_STACK}")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            _error(tf.errors.PermissionDeniedError, f"{_SHARD}; Permission denied"),
            TrainingError,
            f"A shard may not be read: {_SHARD}; Permission denied. Every process",
        ),
        (
            _error(tf.errors.ResourceExhaustedError, f"{_SHARD}; Too many open files"),
            TrainingError,
            f"ran out: {_SHARD}; Too many open files. A smaller input.batch_size",
        ),
        (
            _error(tf.errors.ResourceExhaustedError, "OOM when allocating tensor"),
            TrainingError,
            "ran out: OOM when allocating tensor. A smaller input.batch_size",
        ),
        (
            _error(tf.errors.InvalidArgumentError, "Invalid PNG data, size 7"),
            TrainingError,
            "A step cannot be computed: Invalid PNG data, size 7. If an",
        ),
        (
            _error(tf.errors.UnknownError, f"{_SHARD}; Input/output error"),
            ClusterError,
            f"A step failed, and may not when it is tried again: {_SHARD}; Input/output error",
        ),
        (
            _error(tf.errors.NotFoundError, f"/tmp/cache/{64 * 'a'}; No such file or directory"),
            ClusterError,
            f"Somebody deleted a copy of a shard that was about to be read: /tmp/cache/{64 * 'a'};",
        ),
        (_error(tf.errors.InternalError, "no cuDNN"), ClusterError, "tried again: "),
        (_error(tf.errors.DeadlineExceededError, "late"), ClusterError, "tried again: "),
        (
            _error(tf.errors.InvalidArgumentError, "/job:ps/task:0 unknown device."),
            ClusterError,
            "A parameter server was started anew",
        ),
        (
            ClosureInputError(
                _error(tf.errors.NotFoundError, f"{_SHARD}; No such file or directory")
            ),
            TrainingError,
            f"A shard is damaged or gone: {_SHARD}; No such file or directory.",
        ),
    ],
)
def test_an_error_is_said_in_words_and_with_what_helps(error, kind, says):
    with pytest.raises(kind) as raised, tensorflow_errors.in_words():
        raise error
    assert says in str(raised.value)
    assert "node" not in str(raised.value)


def test_what_is_no_error_of_tensorflow_stays_as_it_is():
    with pytest.raises(ZeroDivisionError), tensorflow_errors.in_words():
        1 / 0  # noqa: B018


@pytest.mark.parametrize(
    ("error", "is_whole"),
    [
        (_error(tf.errors.UnknownError, "FetchError: Given up"), True),
        (TrainingError("Damaged records: 1"), True),
        (_error(tf.errors.UnavailableError, "connection refused"), False),
        (_error(tf.errors.FailedPreconditionError, "could not find variable"), False),
        (_error(tf.errors.InvalidArgumentError, "NaN or infinity in the loss"), False),
        (ClosureInputError(_error(tf.errors.AbortedError, "worker")), False),
    ],
)
def test_parameters_are_saved_unless_they_are_lost_or_not_good(error, is_whole):
    assert tensorflow_errors.leaves_parameters_whole(error) == is_whole
