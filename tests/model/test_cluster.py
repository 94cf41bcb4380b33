"""Reading TF_CONFIG, and waiting for servers over real sockets."""

import contextlib
import json
import socket
import threading
import time

import pytest

from model import cluster
from model.cluster import Cluster, ClusterError
from model.config import ConfigError

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # an empty SETTINGS frame of HTTP/2


def _environment(role="worker", index=1, **changes):
    addresses = {
        "chief": ["127.0.0.1:1"],
        "ps": ["127.0.0.1:2"],
        "worker": ["127.0.0.1:3", "127.0.0.1:4"],
        **changes,
    }
    return {"TF_CONFIG": json.dumps({"cluster": addresses, "task": {"type": role, "index": index}})}


def test_without_tf_config_there_is_no_cluster():
    assert Cluster.from_environment({}) is None
    assert Cluster.from_environment({"TF_CONFIG": " "}) is None


def test_roles_and_devices_are_read():
    read = Cluster.from_environment(_environment(ps=["a:1", "b:1"]))
    assert (read.role, read.index, read.num_workers) == ("worker", 1, 2)
    assert read.ps_devices == [
        "/job:ps/replica:0/task:0/device:CPU:0",
        "/job:ps/replica:0/task:1/device:CPU:0",
    ]


def test_there_are_more_operator_threads_than_tasks():
    read = Cluster.from_environment(_environment(ps=[f"h:{i}" for i in range(1, 100)]))
    inter_op_threads, intra_op_threads = read.threads()
    assert inter_op_threads >= 103
    assert intra_op_threads >= 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "{"}, "not what TensorFlow describes clusters with"),
        ({"TF_CONFIG": "[]"}, "not what TensorFlow describes clusters with"),
        (_environment(ps=[]), "names no ps"),
        (_environment(ps="127.0.0.1:2"), "addresses stand in a list"),
        (_environment(worker=["127.0.0.1", "b:1"]), "'127.0.0.1' is not host:port"),
        (_environment(worker=[3, "b:1"]), "3 is not host:port"),
        (_environment(worker=["a:x", "b:1"]), "'a:x' is not host:port"),
        (_environment(role="worker", index=2), "task is worker 2"),
        (_environment(role="evaluator", index=0), "task is evaluator 0"),
    ],
)
def test_an_unusable_tf_config_is_refused_in_words(environment, message):
    with pytest.raises(ConfigError, match=message):
        Cluster.from_environment(environment)


@pytest.mark.parametrize("servers", [["127.0.0.1:2"], []])
def test_a_synchronous_cluster_names_no_ps_not_even_an_empty_list(servers):
    with pytest.raises(ConfigError, match="names ps, which"):
        Cluster.from_environment(_environment(ps=servers), mode="synchronous")


class Server:
    """Answers each connection with `greeting`, as a gRPC server does with its settings."""

    def __init__(self, greeting=SETTINGS, port=0):
        self._socket = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._greeting = greeting
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accept that waits in it
        self._socket.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    connection.sendall(self._greeting)
                    connection.recv(100)


def test_a_start_goes_on_without_a_worker_that_is_missing_and_names_it():
    with Server() as one:
        other = Server()
        addresses = [one.address, other.address]
        read = Cluster.from_environment(_environment(ps=addresses[:1], worker=addresses))
        assert cluster.gather(read, pytest.fail, timeout=5.0, gather_timeout=5.0) == read
        other.close()
        said = []
        here = cluster.gather(read, said.append, timeout=5.0, gather_timeout=0.3)
        assert here.present == (0,)
        assert here.taking_part == {
            **{"chief": ["127.0.0.1:1"], "ps": addresses[:1]},
            **{"worker": addresses[:1]},
        }
        assert len(said) == 1
        assert f"without worker 1 at {addresses[1]}" in said[0]


def test_a_start_waits_for_every_ps_and_for_one_worker_at_least():
    with Server() as server:
        for there, missing in (("ps", "worker 0"), ("worker", "ps 0")):
            nobody = {"ps": ["127.0.0.1:1"], "worker": ["127.0.0.1:1"]}
            addresses = {**nobody, there: [server.address]}
            read = Cluster.from_environment(_environment(index=0, **addresses))
            with pytest.raises(ClusterError, match=f"from {missing} at 127.0.0.1:1. Start"):
                cluster.gather(read, pytest.fail, timeout=0.3, gather_timeout=0.1)


def test_a_start_waits_for_the_next_worker_as_long_as_others_come():
    ports = [_free_port() for _ in range(3)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Server())

        def come():
            due = int((time.monotonic() - started) / 1.2)  # one each 1.2 s, two of the three
            while 3 - len(ports) < due and len(ports) > 1:
                stack.enter_context(Server(port=ports.pop(0)))

        read = Cluster.from_environment(
            _environment(ps=[first.address], worker=[first.address, *addresses])
        )
        here = cluster.gather(read, lambda line: None, 30.0, gather_timeout=2.0, feed=come)
    assert here.present == (0, 1, 2)
    assert here.absent == {3}


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def test_what_accepts_connections_but_is_no_grpc_server_does_not_answer():
    with Server(b"SSH-2.0-OpenSSH_9.2\r\n") as foreign:
        assert not cluster.answers(foreign.address)
    with socket.create_server(("127.0.0.1", 0)) as stopped:  # nobody accepts, as in a stopped one
        address = f"127.0.0.1:{stopped.getsockname()[1]}"
        assert not cluster.answers(address, timeout=0.2)
    with Server() as server:
        assert cluster.answers(server.address)


def test_a_port_is_free_when_nobody_listens_there():
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        assert not cluster.port_is_free(port)
    assert cluster.port_is_free(port)
