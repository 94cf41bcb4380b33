"""Reading TF_CONFIG, and waiting for servers over real sockets."""

import json
import socket

import pytest

from model import cluster
from model.cluster import Cluster, ClusterError
from model.config import ConfigError


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


def test_waiting_ends_when_all_listen_and_names_who_does_not():
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (one, other)]
        read = Cluster.from_environment(_environment(ps=addresses[:1], worker=addresses))
        cluster.wait_for_servers(read, pytest.fail, timeout=5.0)
        other.close()
        with pytest.raises(ClusterError, match=f"worker 1 at {addresses[1]}"):
            cluster.wait_for_servers(read, pytest.fail, timeout=0.3)
