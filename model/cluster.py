"""The processes of a training cluster: who am I, who else is there, and serving as ps or worker.

A cluster is described as TensorFlow does it, by the environment variable TF_CONFIG:

    {"cluster": {"chief": ["host:port"], "ps": [...], "worker": [...]},
     "task": {"type": "worker", "index": 0}}

Without ps it is one of synchronous training (model.sync_trainer), where the chief computes too.

TensorFlow's servers listen on every interface and let everybody in: keep their ports inside a
private network.
"""

import dataclasses
import json
import os
import socket
import sys
import time

from model import quiet, run_folder
from model.config import ConfigError

EXIT_TRY_AGAIN = 75  # what a ClusterError ends a process with

# What each kind of training needs at least one of, and has nothing besides.
ROLES = {"asynchronous": ("chief", "ps", "worker"), "synchronous": ("chief", "worker")}
CONNECT_TIMEOUT = 120.0  # seconds until every server of a starting cluster must answer


class ClusterError(Exception):
    """The cluster cannot be used now; starting it again may help (exit code 75)."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """TF_CONFIG, checked."""

    addresses: dict[str, tuple[str, ...]]  # role -> host:port
    role: str
    index: int

    @classmethod
    def from_environment(cls, environment=os.environ, mode="asynchronous"):
        """The cluster of TF_CONFIG, or None where that is unset. ConfigError if unusable.

        `mode`: the configuration's train.mode, which decides what roles there must be.
        """
        text = environment.get("TF_CONFIG", "")
        if not text.strip():
            return None
        try:
            config = json.loads(text)
            addresses = {role: _addresses(hosts) for role, hosts in config["cluster"].items()}
            role, index = config["task"]["type"], int(config["task"]["index"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"TF_CONFIG is not what TensorFlow describes clusters with ({error}). "
                f"Received: {text[:200]}"
            ) from error
        roles = ROLES[mode]
        for needed in roles:
            if not addresses.get(needed):
                raise ConfigError(
                    f"TF_CONFIG names no {needed}: a cluster with train.mode={mode} needs at least "
                    f"one of each of {', '.join(roles)}. Received roles: {', '.join(addresses)}."
                )
        if mode == "synchronous" and addresses.get("ps"):
            raise ConfigError(
                "TF_CONFIG names ps, which train.mode=synchronous has no use for: its processes "
                "hold all parameters themselves. Leave them out, or set train.mode=asynchronous."
            )
        if role not in roles or not 0 <= index < len(addresses[role]):
            raise ConfigError(
                f"TF_CONFIG's task is {role} {index}, which its cluster does not have. "
                f"It has: { {r: len(a) for r, a in addresses.items()} }."
            )
        return cls(addresses, role, index)

    @property
    def num_workers(self):
        return len(self.addresses["worker"])

    @property
    def ps_devices(self):
        """Device names of the parameter servers, for ParameterStore; none if synchronous."""
        return [
            f"/job:ps/replica:0/task:{i}/device:CPU:0"
            for i in range(len(self.addresses.get("ps", ())))
        ]

    def threads(self):
        """(inter-op, intra-op) threads that give this process its share of its host's cores.

        With fewer operator threads than there are tasks, closures block each other for ever: each
        waits in a thread for a message that needs a thread to be sent.
        """
        num_tasks = sum(len(addresses) for addresses in self.addresses.values())
        host = _host(self.addresses[self.role][self.index])
        computing = list(self.addresses["worker"])
        if not self.ps_devices:
            computing += self.addresses["chief"]
        neighbours = sum(_host(address) == host for address in computing)
        cores = os.cpu_count() or 1
        return max(cores, num_tasks + 1), max(1, cores // max(1, neighbours))

    def servers(self):
        """[(name, address)] of all that must listen before the chief can begin."""
        return [
            (f"{role} {i}", address)
            for role in ("ps", "worker")
            for i, address in enumerate(self.addresses[role])
        ]


def serve(cluster, run_dir):
    """Serves as ps or worker until training into `run_dir` has ended. Never returns earlier.

    TensorFlow's own `server.join()` never returns at all: what ends this is the marker that the
    chief writes last.
    """
    before = run_folder.read_completed(run_dir)
    inter_op_threads, intra_op_threads = cluster.threads()
    quiet.start_tensorflow(inter_op_threads, intra_op_threads)
    import tensorflow as tf

    tf.distribute.Server(
        tf.train.ClusterSpec({role: list(a) for role, a in cluster.addresses.items()}),
        job_name=cluster.role,
        task_index=cluster.index,
        protocol="grpc",
        config=tf.compat.v1.ConfigProto(
            inter_op_parallelism_threads=inter_op_threads,
            intra_op_parallelism_threads=intra_op_threads,
        ),
        start=True,
    )
    address = cluster.addresses[cluster.role][cluster.index]
    print(f"{cluster.role} {cluster.index} serves at {address}", file=sys.stderr, flush=True)
    while run_folder.read_completed(run_dir) in (None, before):
        time.sleep(1.0)


def wait_for_servers(cluster, report, timeout=CONNECT_TIMEOUT):
    """Returns when every ps and worker accepts connections; ClusterError after `timeout` seconds.

    A chief that connects while a server is missing blocks for ever and says nothing.
    """
    deadline = time.monotonic() + timeout
    next_report = time.monotonic() + 5.0
    missing = cluster.servers()
    while True:
        missing = [(name, address) for name, address in missing if not _accepts(address)]
        if not missing:
            return
        names = ", ".join(f"{name} at {address}" for name, address in missing)
        if time.monotonic() > deadline:
            raise ClusterError(f"No answer within {timeout:.0f} s from {names}.")
        if time.monotonic() > next_report:
            report(f"Waiting for {names}")
            next_report += 5.0
        time.sleep(0.2)


def _addresses(hosts):
    """A role's addresses, checked: a list of host:port."""
    if not isinstance(hosts, list):
        raise TypeError(f"addresses stand in a list, not {hosts!r}")
    for address in hosts:
        host, colon, port = str(address).rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"{address!r} is not host:port")
    return tuple(hosts)


def _host(address):
    return address.rsplit(":", 1)[0]


def _accepts(address):
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except OSError:
        return False
