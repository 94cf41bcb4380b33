"""The processes of a training cluster: who am I, who else is there, and serving as ps or worker.

A cluster is described as TensorFlow does it, by the environment variable TF_CONFIG:

    {"cluster": {"chief": ["host:port"], "ps": [...], "worker": [...]},
     "task": {"type": "worker", "index": 0}}

Without ps it is one of synchronous training (model.sync_trainer), where the chief computes too.

TensorFlow's servers listen on every interface and let everybody in: keep their ports inside a
private network.
"""

import concurrent.futures
import dataclasses
import json
import os
import socket
import sys
import time

from model import quiet, run_folder
from model.config import ConfigError
from model.interruption import Interrupted
from pipeline.cores import num_cores

EXIT_TRY_AGAIN = 75  # what a ClusterError ends a process with

# What each kind of training needs at least one of, and has nothing besides.
ROLES = {"asynchronous": ("chief", "ps", "worker"), "synchronous": ("chief", "worker")}

_HTTP2_SETTINGS = b"\x04"  # the type of the first frame that either side sends
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _HTTP2_SETTINGS + bytes(5)


class ClusterError(Exception):
    """The cluster cannot be used now; starting it again may help (exit code 75)."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """TF_CONFIG, checked."""

    addresses: dict[str, tuple[str, ...]]  # role -> host:port
    role: str
    index: int
    absent: frozenset[int] = frozenset()  # numbers of the workers that training goes on without

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
        if mode == "synchronous" and "ps" in addresses:  # TensorFlow crashes at an empty list, too
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
    def task(self):
        """This process, as messages name it: "ps 0"."""
        return f"{self.role} {self.index}"

    @property
    def address(self):
        """host:port of this process."""
        return self.addresses[self.role][self.index]

    @property
    def num_workers(self):
        return len(self.addresses["worker"])

    @property
    def present(self):
        """Numbers of the workers that take part in training."""
        return tuple(i for i in range(self.num_workers) if i not in self.absent)

    @property
    def taking_part(self):
        """role -> addresses, of all but the absent: what TensorFlow is told of the cluster.

        It counts the workers among these: its worker 1 may be TF_CONFIG's, and our, worker 2.
        """
        workers = [self.addresses["worker"][i] for i in self.present]
        return {**{role: list(a) for role, a in self.addresses.items()}, "worker": workers}

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
        cores = num_cores()
        return max(cores, num_tasks + 1), max(1, cores // max(1, neighbours))

    def servers(self):
        """[(name, address)] of all that must listen before the chief can begin."""
        return [
            (f"{role} {i}", address)
            for role in ("ps", "worker")
            for i, address in enumerate(self.addresses.get(role, ()))
        ]


def serve(cluster, run_dir, timeouts, signals):
    """Serves as ps or worker until training into `run_dir` has ended, or the chief is gone.

    TensorFlow's own `server.join()` never returns at all: what ends this is the marker that the
    chief writes last. `timeouts`: a TrainConfig. Raises ClusterError if the chief cannot be reached
    for `start_timeout` seconds from the start or `stall_timeout` seconds later, or if this server's
    address is taken; Interrupted on SIGTERM, a ps after the chief has read what it holds.
    """
    before = run_folder.read_completed(run_dir)
    start_server(cluster)
    print(f"{cluster.task} serves at {cluster.address}", file=sys.stderr, flush=True)
    chief = _Chief(cluster.addresses["chief"][0], timeouts)
    with signals.deferred():
        while run_folder.read_completed(run_dir) in (None, before):
            if signals.received is not None:
                raise Interrupted(
                    signals.received, _say_farewell(cluster, run_dir, chief, timeouts.grace)
                )
            try:
                chief.look()
            except ClusterError as error:
                if before is not None and not chief.came:
                    print(f"{error} {run_dir} is trained already.", file=sys.stderr, flush=True)
                    return
                raise
            time.sleep(1.0)


def start_server(cluster):
    """Starts TensorFlow and its server; ClusterError if the port is taken."""
    port = int(cluster.address.rsplit(":", 1)[1])
    if not port_is_free(port):
        raise ClusterError(
            f"{cluster.task} cannot listen at {cluster.address}: another process does. End that, "
            "or start the cluster with another address."
        )
    inter_op_threads, intra_op_threads = cluster.threads()
    quiet.start_tensorflow(inter_op_threads, intra_op_threads)
    import tensorflow as tf

    from model import remote_shards

    remote_shards.register()
    try:
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
    except tf.errors.UnknownError as error:
        raise ClusterError(f"{cluster.task} cannot listen at {cluster.address}: {error}") from error


def _say_farewell(cluster, run_dir, chief, grace):
    """Gives up what this server holds, and returns what became of it."""
    if cluster.role == "worker":
        return "the steps that it had not finished go to the other workers"
    if not answers(chief.address):
        return "there is no chief that could save its parameters"
    events = run_folder.Events(run_dir)
    run_folder.add_event(run_dir, cluster.task, "leaving")
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline:
        if any(event["event"] == "read" for event in events.new()):
            return "the chief has read its parameters"
        time.sleep(0.2)
    return f"the chief has not read its parameters within {grace:.0f} s (train.grace)"


class _Chief:
    """The chief as its servers see it: when it last answered."""

    def __init__(self, address, timeouts):
        self.address = address
        self.came = False
        self._timeouts = timeouts
        self._seen = self._looked = time.monotonic()

    def look(self):
        """Raises ClusterError if the chief has been silent for too long."""
        now = time.monotonic()
        timeout = self._timeouts.stall_timeout if self.came else self._timeouts.start_timeout
        if now - self._looked < min(10.0, timeout / 10):
            return
        slept, self._looked = now - self._looked > timeout / 2, now
        if answers(self.address):
            self.came, self._seen = True, time.monotonic()
        elif slept:  # this process was stopped itself: nothing is known of the chief
            self._seen = now
        elif now - self._seen > timeout:
            since = "" if self.came else " since this process started"
            raise ClusterError(
                f"No answer from the chief at {self.address} for {timeout:.0f} s{since}."
            )


def gather(cluster, report, timeout, gather_timeout, feed=lambda: None):
    """The cluster with the workers that answer, once every ps and as many workers as come do.

    A chief that connects while a server is missing blocks for ever and says nothing. When no other
    has come for `gather_timeout` seconds, workers that are missing are left out. ClusterError after
    `timeout` seconds without a ps, or without any worker. `feed` is called all the time.
    """
    started = last_came = time.monotonic()
    next_report = started + 5.0
    missing = cluster.servers()
    while True:
        before, missing = len(missing), silent(missing)
        feed()
        if not missing:
            return cluster
        now = time.monotonic()
        if len(missing) < before:
            last_came = now
        names = ", ".join(f"{name} at {address}" for name, address in missing)
        workers = enumerate(cluster.addresses["worker"])
        absent = {i for i, address in workers if (f"worker {i}", address) in missing}
        can_begin = len(absent) == len(missing) < cluster.num_workers
        if now - started > timeout and not can_begin:
            raise ClusterError(
                f"No answer within {timeout:.0f} s from {names}. Start what is missing, or correct "
                "the addresses in TF_CONFIG, which must be the same in every process."
            )
        if can_begin and now - last_came > min(gather_timeout, timeout):
            report(f"Training begins without {names}. What comes later joins at a later start.")
            return dataclasses.replace(cluster, absent=frozenset(absent))
        if now > next_report:
            report(f"Waiting for {names}")
            next_report += 5.0
        time.sleep(0.2)


def silent(servers):
    """Those of [(name, address)] that do not answer, asked all at once."""
    with concurrent.futures.ThreadPoolExecutor(max(1, min(32, len(servers)))) as pool:
        answered = pool.map(answers, [address for _, address in servers])
        return [server for server, answer in zip(servers, answered, strict=True) if not answer]


def answers(address, timeout=2.0):
    """Whether a gRPC server is at work at host:port.

    A process that is stopped still accepts connections, its kernel does it; so the server has to
    answer the greeting of HTTP/2, too (RFC 9113, section 3.4).
    """
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout) as connection:
            connection.sendall(_HTTP2_GREETING)
            return connection.recv(9)[3:4] == _HTTP2_SETTINGS
    except OSError:
        return False


def port_is_free(port):
    """Whether a server can listen at this port of this machine."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("", port))
            candidate.listen()
        except OSError:
            return False
    return True


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
