"""A training cluster whose processes live in network namespaces, and what cuts them off.

Each host is a network namespace of its own, tied to a bridge by a pair of virtual interfaces; the
bridge lives in a namespace too, so nothing of this machine's own network is touched. Needs Linux,
root, and `ip` (Debian: iproute2).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fault_rows import CLOSURE, FaultError, Row
from benchmarks.hand_made import HandMadeCluster

PORT, OTHER_PORT = 4000, 4001
HOSTS = {
    "chief 0": "10.77.0.2",
    "ps 0": "10.77.0.3",
    "worker 0": "10.77.0.4",
    "worker 1": "10.77.0.5",
    "spare 0": "10.77.0.6",
}


def why_not() -> str:
    """Why this machine cannot make network namespaces; empty where it can."""
    if sys.platform != "linux" or shutil.which("ip") is None:
        return "network namespaces need Linux and the command `ip` (Debian: iproute2)"
    tried = subprocess.run(
        ["ip", "netns", "add", f"faults-{os.getpid()}-try"], capture_output=True, text=True
    )
    if tried.returncode:
        return f"network namespaces are not permitted here: {tried.stderr.strip()}"
    _ip("netns", "del", f"faults-{os.getpid()}-try")
    return ""


class Network:
    """Hosts on a bridge, within a `with` block."""

    def __init__(self):
        self.addresses: dict[str, str] = {}  # host -> address
        self._prefix = f"faults-{os.getpid()}"
        self._hub = f"{self._prefix}-hub"
        self._names: list[str] = []

    def __enter__(self):
        self._add(self._hub)
        _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "bridge", "up")
        return self

    def __exit__(self, *error):
        for name in self._names:
            _ip("netns", "del", name)

    def add_host(self, host: str, address: str) -> None:
        """A namespace `host` with one address."""
        name = self._name(host)
        self._add(name)
        self.addresses[host] = address
        port = f"port{len(self._names)}"
        _ip(
            *("-n", self._hub, "link", "add", port, "type", "veth"),
            *("peer", "name", "eth", "netns", name),
        )
        _ip("-n", self._hub, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth", "up")

    def cut(self, host: str) -> None:
        """Pulls the host's cable: nothing comes or goes, and nobody is told."""
        _ip("-n", self._name(host), "link", "set", "eth", "down")

    def heal(self, host: str) -> None:
        """Puts the cable back."""
        _ip("-n", self._name(host), "link", "set", "eth", "up")

    def command(self, host: str, command: list[str]) -> list[str]:
        """The command that runs another one on a host; its process becomes that of the other."""
        return ["ip", "netns", "exec", self._name(host), *command]

    def _name(self, host: str) -> str:
        return f"{self._prefix}-{host.replace(' ', '-')}"

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._names.append(name)


def rows(shards: Path, run: Path) -> Iterator[Row]:
    """Cuts hosts off and moves processes, one after the other, and says what came of it."""
    with Network() as network:
        for host, address in HOSTS.items():
            network.add_host(host, address)
        places = {name: (name, PORT) for name in HOSTS if not name.startswith("spare")}
        cluster = HandMadeCluster(network, places, shards, run)
        try:
            yield late_start(cluster)
            yield worker_cut(network, cluster)
            yield worker_moved(cluster)
            yield server_cut(network, cluster)
            yield chief_cut(network, cluster)
        finally:
            cluster.close()


def late_start(cluster: HandMadeCluster) -> Row:
    """All but one worker start; the chief says whom it waits for, and begins when it has come."""
    for name in cluster.places:
        if name != "worker 1":
            cluster.start(name)
    cluster.wait_for(f"Waiting for worker 1 at {cluster.address('worker 1')}")
    cluster.start("worker 1")
    seconds = cluster.wait_for_steps()
    return Row(
        "worker: late start",
        "the chief says whom it waits for, up to `gather_timeout` for each more that comes",
        *(0, "0", seconds, "none"),
    )


def worker_cut(network: Network, cluster: HandMadeCluster) -> Row:
    """A worker is cut off: the chief names it, the others go on, and it ends by itself."""
    after = len(cluster.output())
    network.cut("worker 1")
    seconds = cluster.wait_for_steps()
    cluster.wait_for(f"worker 1 at {cluster.address('worker 1')} has taken no step", after=after)
    exit_code = cluster.end_of("worker 1")  # it misses the chief
    cluster.wait_for_steps()
    network.heal("worker 1")
    if "Going on from" in cluster.output():
        raise FaultError(cluster.explain())
    return Row(
        "worker: network cut",
        "the others go on; the chief names it after `stall_timeout`; it ends by itself",
        *(0, f"≤ {CLOSURE}", seconds, str(exit_code)),
    )


def worker_moved(cluster: HandMadeCluster) -> Row:
    """A worker comes back on another host: it idles until all are told of its new address."""
    cluster.places["worker 1"] = ("spare 0", OTHER_PORT)
    cluster.start("worker 1")
    cluster.wait_for("serves at", "worker 1", after=len(cluster.output("worker 1")))
    cluster.wait_for_steps()  # the others go on
    cluster.processes["chief 0"].terminate()
    exit_code = cluster.end_of("chief 0")
    lost, seconds = cluster.start_again()
    if lost or exit_code != 75:
        raise FaultError(f"{lost} steps lost, exit code {exit_code}:\n{cluster.explain()}")
    return Row(
        "worker: back on another host and port",
        "idles; the chief, told to end, saves; all are started with the new address and go on",
        *(0, "0", seconds, "75 (the chief's)"),
    )


def server_cut(network: Network, cluster: HandMadeCluster) -> Row:
    """The ps is cut off for good: all end and say why; on another host it is started again."""
    cluster.wait_for_checkpoint()
    after = {name: len(cluster.output(name)) for name in cluster.places}
    network.cut("ps 0")
    exit_codes = cluster.end_of_all()
    cluster.wait_for(f"from ps 0 at {cluster.address('ps 0')}", after=after["chief 0"])
    chief = f"No answer from the chief at {cluster.address('chief 0')}"
    for name in ("ps 0", "worker 0", "worker 1"):
        cluster.wait_for(chief, name, after=after[name])
    cluster.places["ps 0"] = ("worker 0", OTHER_PORT)
    lost, seconds = cluster.start_again()
    network.heal("ps 0")
    return Row(
        "ps: network cut, started on another host and port",
        "all end within twice `stall_timeout` and say whom they miss; started with the new "
        "address, they go on from the newest checkpoint",
        *(lost, str(lost), seconds, exit_codes),
    )


def chief_cut(network: Network, cluster: HandMadeCluster) -> Row:
    """The chief is cut off: all end and say why; started in the same places they go on."""
    cluster.wait_for_checkpoint()
    network.cut("chief 0")
    exit_codes = cluster.end_of_all()
    network.heal("chief 0")
    lost, seconds = cluster.start_again()
    return Row(
        "chief: network cut, all started in the same places",
        "all end within twice `stall_timeout` and say whom they miss; started again, they go on "
        "from the newest checkpoint",
        *(lost, str(lost), seconds, exit_codes),
    )


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
