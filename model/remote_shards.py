"""Lets a dataset read shards of an object store: addresses in, paths of local copies out.

On a cluster the chief makes the dataset, and the workers run it. TensorFlow looks for a Python
function in the process where the operation runs, by a token that only counts the functions there.
So every process registers this function before any other, and the first token means it everywhere.
"""

import functools
import socket
import threading

import tensorflow as tf

from model import shard_cache

_FIRST_TOKEN = "pyfunc_0"

_cache = functools.cache(shard_cache.ShardCache)  # one a process
_making = threading.Lock()


def fetched(shards, settings, deterministic):
    """A dataset of local copies, NUM_FETCHES of which are fetched at once.

    Where the elements of `shards` begin with an address, those of this one begin with the path of
    its copy. `settings` is the configuration's `input`. Iterating raises UnknownError: see
    shard_cache.error_in.
    """

    def local_path(address):
        bounds = [tf.constant(settings.cache_bytes, tf.int64), tf.constant(settings.fetch_timeout)]
        inputs = [address, tf.constant(settings.cache_dir), *bounds]
        (path,) = tf.raw_ops.PyFunc(input=inputs, token=_registered()[0], Tout=[tf.string])
        path.set_shape([])
        return path

    return shards.map(
        lambda address, *rest: (local_path(address), *rest),
        num_parallel_calls=shard_cache.NUM_FETCHES,
        deterministic=deterministic,
    )


def register():
    """Makes this process ready to run datasets that another one makes."""
    token, _ = _registered()
    if token != _FIRST_TOKEN:
        raise RuntimeError(
            f"Another function was registered with TensorFlow first: this one is {token}, and the "
            f"other processes of the cluster take {_FIRST_TOKEN} for it."
        )


@functools.cache
def _registered():
    """(token, graph): the function's, for as long as the graph is there."""
    with tf.Graph().as_default() as graph:
        types = (tf.string, tf.string, tf.int64, tf.float32)
        inputs = [tf.compat.v1.placeholder(kind, []) for kind in types]
        path = tf.numpy_function(_local_path, inputs, tf.string)
        return path.op.get_attr("token").decode(), graph


@tf.autograph.experimental.do_not_convert
def _local_path(address, folder, max_bytes, timeout):
    folder = folder.decode() or shard_cache.default_folder()
    try:
        with _making:
            cache = _cache(folder, int(max_bytes), float(timeout))
        return cache.local_path(address.decode()).encode()
    except (shard_cache.FetchError, shard_cache.CacheError) as error:
        # The chief says it, and has many hosts.
        raise type(error)(f"on {socket.gethostname()}: {error}") from error
