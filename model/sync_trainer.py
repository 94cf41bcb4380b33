"""Synchronous training: all processes take each step together, and apply the same mean of it.

Every process holds all parameters, computes on images of its own, and takes the mean of loss,
gradients and batch statistics over all processes (an all-reduce: no parameter server). As all then
do the same arithmetic to the same numbers, they stay equal to the last bit.

A step of n processes is the step of one process on a batch n times as large, except that each
normalizes its batch by the statistics of its own images, as replicas usually do.
`train.synchronized_batch_norm` takes them over all images instead.

The chief, process 0, writes progress and checkpoints as in asynchronous training, and sends what it
starts from to the others. One process an accelerator; where one of them dies, all end with exit
code 75, and start again from the newest checkpoint.
"""

import contextlib
import hashlib
import math
import os
import re
import signal
import socket
import time

import numpy as np
import tensorflow as tf

from model import config as config_module
from model import tensorflow_errors
from model.cluster import EXIT_TRY_AGAIN, ClusterError
from model.config import ConfigError
from model.run_folder import class_list_hash
from model.telemetry import report
from model.watchdog import Watchdog

_GREETING, _GO = re.compile(rb"worker (\d{1,9})"), b"go"
_POLL = 0.5  # seconds
_REPORT_EVERY = 5.0  # seconds


class Group:
    """The processes of one training, of which this is number `rank` of `size`."""

    def __init__(self, strategy):
        resolver = strategy.cluster_resolver
        num_chiefs = resolver.cluster_spec().num_tasks("chief")
        self.rank = resolver.task_id + (num_chiefs if resolver.task_type == "worker" else 0)
        self.size = strategy.num_replicas_in_sync
        self._strategy = strategy

    def run(self, function):
        """Calls a function in which `mean` can be used; to be called while a graph is traced."""
        self._strategy.run(function)

    def mean(self, computed):
        """A `Computed` of the means over the processes; the state of a noise stays as it is."""
        context = tf.distribute.get_replica_context()
        means = context.all_reduce(tf.distribute.ReduceOp.MEAN, computed.numbers())
        return computed.with_numbers(means)

    def from_chief(self, arrays):
        """The chief's arrays, in every process; all give a list of the same shapes and one type.

        Raises ClusterError where another process is lost.
        """
        mine = [tf.constant(a if self.rank == 0 else np.zeros_like(a)) for a in arrays]

        @tf.function(autograph=False)
        def totals(values):
            def add():
                context = tf.distribute.get_replica_context()
                # all_reduce goes by a tensor's device, which an argument does not have.
                here = [tf.identity(value) for value in values]
                return context.all_reduce(tf.distribute.ReduceOp.SUM, here)

            return self._strategy.run(add)

        with tensorflow_errors.in_words():
            return [total.numpy() for total in totals(mine)]

    def check_agreement(self, config, vocabulary):
        """ConfigError where this process trains by another configuration than the chief."""
        text = config_module.to_toml(config) + class_list_hash(vocabulary)
        digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.int64)
        if (self.from_chief([digest])[0] != digest).any():
            raise ConfigError(
                f"Process {self.rank} has another configuration or class list than the chief. "
                "Synchronous training takes the same --preset, --set and --data in all processes."
            )

    def share_state(self, store):
        """Gives every process's store what the chief's holds."""
        state = store.export()
        kinds = [kind for kind, values in state.items() if isinstance(values, dict)]
        counters = [kind for kind in state if kind not in kinds]
        places = [(kind, path) for kind in kinds for path in state[kind]]
        arrays = self.from_chief([state[kind][path] for kind, path in places])
        numbers = self.from_chief([np.array([state[kind] for kind in counters], np.int64)])[0]
        for (kind, path), array in zip(places, arrays, strict=True):
            state[kind][path] = array
        state.update(zip(counters, numbers.tolist(), strict=True))
        store.restore(state)


def join(cluster, timeout):
    """Starts this process's server among the others'; returns the Group of all.

    Raises ClusterError: one of them has not come within `timeout` seconds.
    """
    meet(cluster, report, timeout)
    # One that dies from here on leaves the others inside TensorFlow, where no Python thread runs:
    # what ends them is the signal. The launcher, or whoever started them, starts them again.
    signal.alarm(math.ceil(timeout))
    group = Group(tf.distribute.MultiWorkerMirroredStrategy())
    signal.alarm(0)
    if cluster.role == "chief":  # TensorFlow has taken SIGTERM: the chief takes it back, to save
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return group


def meet(cluster, report, timeout):
    """Returns when all processes are there; ClusterError after `timeout` seconds without one.

    TensorFlow waits for those that are missing for an hour, and says nothing. So the workers come
    to the chief's port first, before a server listens there, and it sends them on together.
    """
    deadline = time.monotonic() + timeout
    wait = _wait_for_workers if cluster.role == "chief" else _wait_for_chief
    try:
        wait(cluster, report, deadline)
    except TimeoutError as error:
        raise ClusterError(f"Not there within {timeout:.0f} s: {error}.") from error
    except OSError as error:
        address = cluster.addresses["chief"][0]
        raise ClusterError(f"The chief cannot listen at {address}: {error.strerror}.") from error


def _wait_for_workers(cluster, report, deadline):
    host, port = cluster.addresses["chief"][0].rsplit(":", 1)
    missing = dict(enumerate(cluster.addresses["worker"]))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((host, int(port))))
        connections = []
        next_report = time.monotonic() + _REPORT_EVERY
        while missing:
            names = ", ".join(f"worker {i} at {address}" for i, address in missing.items())
            if time.monotonic() > deadline:
                raise TimeoutError(names)
            if time.monotonic() > next_report:
                report(f"Waiting for {names}")
                next_report += _REPORT_EVERY
            server.settimeout(_POLL)
            with contextlib.suppress(OSError):
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(_POLL)
                greeting = _GREETING.fullmatch(connection.recv(64))
                if greeting:
                    missing.pop(int(greeting[1]), None)
                    connections.append(connection)
        for connection in connections:
            with contextlib.suppress(OSError):  # one that has died since, and came again
                connection.sendall(_GO)


def _wait_for_chief(cluster, report, deadline):
    host, port = cluster.addresses["chief"][0].rsplit(":", 1)
    report(f"Waiting for the chief at {host}:{port} and the other workers")
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), _POLL) as to:
            to.sendall(b"worker %d" % cluster.index)
            to.settimeout(max(_POLL, deadline - time.monotonic()))
            if to.recv(len(_GO)) == _GO:
                return
        time.sleep(_POLL)
    raise TimeoutError(f"the chief at {host}:{port}, with all workers")


def follow(config, store, executor):
    """Takes the steps that the chief takes in async_trainer.train, until enough images are seen.

    Raises what that raises.
    """
    timeouts = config.train.first_timeout, config.train.stall_timeout

    def give_up(doing, seconds):
        report(f"model.train: no {doing} for {seconds:.0f} s")
        os._exit(EXIT_TRY_AGAIN)

    with tensorflow_errors.in_words(), Watchdog(*timeouts, give_up) as watchdog:
        progress = store.progress()
        while progress.samples < config.train.samples:
            watchdog.feed("step together with the others")
            executor.advance(progress.step, None)
            watchdog.settle()
            progress = store.progress()
    report(f"Took {progress.step:,} steps; parameters {parameters_digest(store)}")


def parameters_digest(store):
    """sha256 of the parameters in the order of their paths: equal in all processes."""
    digest = hashlib.sha256()
    for path, array in sorted(store.export()["parameters"].items()):
        digest.update(path.encode() + array.tobytes())
    return digest.hexdigest()
