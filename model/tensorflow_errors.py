"""What TensorFlow's errors mean for a training: errors of this project, in words.

Starting again helps against what servers, networks and disks do (ClusterError), and against nothing
that the input, the configuration or the numbers do (TrainingError).
"""

import contextlib
import re

import tensorflow as tf

from model import shard_cache
from model.cluster import ClusterError
from model.input import SINGLE_LABEL_RULE
from model.run_folder import TrainingError
from model.training_step import NOT_FINITE

_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
# What a ps says that died and is there again, and knows nothing.
_STARTED_ANEW = (
    "context_id",
    "Resource localhost/",
    "find variable",
    "unknown device",
    "Unable to find the relevant tensor remote_handle",
)
_GONE_COPY = re.compile(r"/[0-9a-f]{64}; No such file")  # of input.cache_dir


@contextlib.contextmanager
def in_words():
    """A block whose errors of TensorFlow become a ClusterError or a TrainingError."""
    try:
        yield
    except Exception as error:
        said = _in_words(_unwrapped(error))
        if said is None:
            raise
        raise said from error


def leaves_parameters_whole(error):
    """Whether the parameters can still be read after this error of a step, and are good to keep."""
    error = _unwrapped(error)
    return not (isinstance(error, _LOST) or _is_of_another_start(error) or NOT_FINITE in str(error))


def _unwrapped(error):
    """The error itself: a coordinator wraps that of a dataset that a worker could not make."""
    return getattr(error, "original_exception", error)


def _in_words(error):
    """The error of this project; None where it is not one of TensorFlow's."""
    if not isinstance(error, tf.errors.OpError):
        return None
    what = _core_of(error)
    if _is_of_another_start(error):
        return ClusterError(f"A parameter server was started anew: {what}")
    if isinstance(error, _LOST):
        return ClusterError(
            f"A parameter server, or a process of a synchronous training, was lost: {what}"
        )
    found = shard_cache.error_in(str(error))
    if found is not None:
        kind = ClusterError if isinstance(found, shard_cache.FetchError) else TrainingError
        return kind(str(found))
    if _GONE_COPY.search(str(error)):
        return ClusterError(f"Somebody deleted a copy of a shard that was about to be read: {what}")
    if SINGLE_LABEL_RULE in str(error):
        return TrainingError(
            f"{what}. Choose another loss, or train on a split in which every image has one label."
        )
    if NOT_FINITE in str(error):
        return TrainingError(
            f"{what}. The step was not applied, and the newest checkpoint is from before; lower "
            "optimizer.learning_rate, raise optimizer.warmup or set optimizer.max_gradient_norm."
        )
    for kinds, sentence in _PERMANENT.items():
        if isinstance(error, kinds):
            return TrainingError(sentence.format(what))
    return ClusterError(f"A step failed, and may not when it is tried again: {what}")


# What starting again does not help against: {kinds of error: what is said of it}
_PERMANENT = {
    (tf.errors.DataLossError, tf.errors.NotFoundError): (
        "A shard is damaged or gone: {}. `python -m pipeline.verify` names what is wrong; the "
        "pipeline writes the shard anew. What a process read in input.cache_dir, the next start "
        "checks and fetches anew."
    ),
    tf.errors.PermissionDeniedError: (
        "A shard may not be read: {}. Every process that trains needs the right to."
    ),
    tf.errors.ResourceExhaustedError: (
        "Memory or something else ran out: {}. A smaller input.batch_size, or more "
        "train.micro_batches, take less memory; `ulimit -n` says how many files may be open."
    ),
    tf.errors.InvalidArgumentError: (
        "A step cannot be computed: {}. If an example is to blame, `python -m pipeline.verify` "
        "names it."
    ),
}


def _is_of_another_start(error):
    return any(text in str(error) for text in _STARTED_ANEW)


def _core_of(error):
    """What a TensorFlow error says, without the graph and the stack around it."""
    assertion = re.search(r"assertion failed: \[(.*)\]", str(error))
    if assertion:
        return assertion[1].replace("] [", " ")
    found = re.search(r"(corrupted|truncated) record at \d+|/\S*; [A-Z][a-z/ ]+", str(error))
    if found:
        return found[0]
    return re.sub(r"\{\{.*?\}\} *", "", str(error)).strip().split("\n")[0][:300]
