"""Faults of who is there: workers that come later, or never again, while others come and go."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.fault_rows import CLOSURE, FaultError, Row, read_metrics, wait_until
from benchmarks.hand_made import HandMadeCluster, ThisMachine
from model.launch.local import free_ports

TASKS = ("chief 0", "ps 0", "worker 0", "worker 1", "worker 2")
SOON = "--set=train.gather_timeout=5"


def rows(shards: Path, run: Path) -> Iterator[Row]:
    """Leaves workers out and takes them in again, and says what came of it."""
    places = {
        name: ("here", port) for name, port in zip(TASKS, free_ports(len(TASKS)), strict=True)
    }
    cluster = HandMadeCluster(ThisMachine(), places, shards, run)
    try:
        yield absent(cluster)
        yield come(cluster)
        yield stuck(cluster)
    finally:
        cluster.close()


def absent(cluster: HandMadeCluster) -> Row:
    """All but one worker start; after a while training begins without it."""
    for name in TASKS:
        if name != "worker 1":
            cluster.start(name, SOON)
    cluster.wait_for(f"Training begins without worker 1 at {cluster.address('worker 1')}")
    seconds = cluster.wait_for_steps()
    wait_until(lambda: working(cluster) == {0, 2}, "workers 0 and 2 work", cluster.explain)
    return Row(
        "worker: never starts",
        "the others begin when none has come for `gather_timeout`",
        *(0, "0", seconds, "none"),
    )


def come(cluster: HandMadeCluster) -> Row:
    """The worker comes: the chief saves and ends, and a start takes all in."""
    cluster.start("worker 1")
    exit_code = cluster.end_of("chief 0")
    cluster.wait_for("worker 1 came after the start and can join a new one; step")
    lost, seconds = cluster.start_again()
    wait_until(lambda: working(cluster) == {0, 1, 2}, "all workers work", cluster.explain)
    if lost or exit_code != 75:
        raise FaultError(f"{lost} steps lost, exit code {exit_code}:\n{cluster.explain()}")
    return Row(
        "worker: starts when the others have begun",
        "the chief saves when its next checkpoint is due; all that start again take it in",
        *(0, "0", seconds, "75 (the chief's)"),
    )


def stuck(cluster: HandMadeCluster) -> Row:
    """One worker is gone for good, and another was gone for a moment: it cannot join."""
    for name in ("worker 1", "worker 2"):
        cluster.processes[name].kill()
        cluster.end_of(name)
    cluster.start("worker 2")
    cluster.wait_for_steps()  # worker 0 goes on
    exit_code = cluster.end_of("chief 0")
    cluster.wait_for("worker 2 cannot join while worker 1 is gone")
    lost, seconds = cluster.start_again(but="worker 1")
    wait_until(lambda: working(cluster) == {0, 2}, "workers 0 and 2 work", cluster.explain)
    if lost or exit_code != 75:
        raise FaultError(f"{lost} steps lost, exit code {exit_code}:\n{cluster.explain()}")
    return Row(
        "workers: one gone for good, another back",
        "the others go on; after twice `stall_timeout` the chief saves; all that start again go on "
        "without the one",
        *(0, f"≤ {2 * CLOSURE}", seconds, "75 (the chief's)"),
    )


def working(cluster: HandMadeCluster) -> set[int]:
    """The workers that took steps, by the newest metrics that tell of each worker."""
    for metrics in reversed(read_metrics(cluster.run)):
        if "worker/0/images_per_second" in metrics:
            return {i for i in range(3) if metrics.get(f"worker/{i}/images_per_second")}
    return set()
