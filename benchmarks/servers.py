"""A ps or more and workers for a benchmark that is their chief: started, served, connected to.

A benchmark that uses them serves where TF_CONFIG says so:

    here = Cluster.from_environment()
    if here:
        servers.serve(here)
    ...
    running = servers.start("benchmarks.this", num_ps=1, num_workers=2, folder=folder)
    here, coordinator = servers.connect()
"""

import json
import os
import sys
import time
from pathlib import Path

from model import cluster, quiet, train
from model.launch import local, processes
from model.telemetry import report

START_TIMEOUT = 120.0  # seconds


def start(module, num_ps, num_workers, folder):
    """[ps, ..., worker, ...]: processes of `module`; this process is their chief from here on."""
    counts = {"chief": 1, "ps": num_ps, "worker": num_workers}
    ports = iter(local.free_ports(sum(counts.values())))
    addresses = {
        role: [f"127.0.0.1:{next(ports)}" for _ in range(count)] for role, count in counts.items()
    }

    def task(role, index):
        return json.dumps({"cluster": addresses, "task": {"type": role, "index": index}})

    started = []
    for role in ("ps", "worker"):
        for index in range(counts[role]):
            with open(Path(folder) / f"{role}-{index}.log", "w") as log:
                command = [sys.executable, "-m", module]
                environment = {**os.environ, "TF_CONFIG": task(role, index)}
                started.append(processes.start(command, env=environment, stderr=log))
    os.environ["TF_CONFIG"] = task("chief", 0)
    return started


def serve(here):
    """Serves until the process is ended, which its parent's end does."""
    cluster.start_server(here)
    while True:
        time.sleep(1.0)


def connect():
    """(Cluster, coordinator) of the servers that were started."""
    here = cluster.Cluster.from_environment()
    quiet.start_tensorflow(*here.threads())
    here = cluster.gather(here, report, START_TIMEOUT, gather_timeout=START_TIMEOUT)
    return here, train.connect(here)
