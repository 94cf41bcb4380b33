"""How the chief sees that a worker hangs. Real workers are in test_launch.py and test_faults.py."""

import pytest

from model import executors, run_folder
from model.cluster import Cluster
from model.config import Config, TrainConfig
from model.parameter_store import Work


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        del seconds


class Store:
    """Counts steps of two workers."""

    def __init__(self):
        self.steps = [0, 0]

    def work(self):
        return [Work(steps, images=0, pull=0, compute=0, push=0) for steps in self.steps]


class Coordinator:
    """Takes closures, and never has one done."""

    def create_per_worker_dataset(self, dataset_fn):
        del dataset_fn
        return ()

    def schedule(self, function, args):
        del function, args

    def done(self):
        return False


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(executors, "time", clock)
    return clock


def test_a_worker_hangs_when_a_step_is_too_slow_however_long_its_closure_takes(clock, tmp_path):
    config = Config(train=TrainConfig(stall_timeout=60, start_timeout=60, steps_per_closure=8))
    store = Store()
    cluster = Cluster({"worker": ("localhost:1", "localhost:2")}, role="chief", index=0)
    executor = executors.OnCluster(
        config, store, cluster, Coordinator(), None, lambda: None, None, tmp_path
    )
    events = run_folder.Events(tmp_path)
    for second in range(200):  # a step of worker 0 takes 40 s, a closure 320 s; worker 1 stands
        clock.now = float(second)
        store.steps[0] = second // 40
        executor.advance(sum(store.steps), 1000)
    found = [(event["task"], event["event"], event["seconds"]) for event in events.new()]
    assert found == [
        ("worker 1", "hung", 60),
        ("worker 1", "hung", 120),
        ("worker 1", "hung", 180),
    ]


@pytest.mark.parametrize(
    ("absent", "unanswering", "seconds", "says"),
    [
        ((), (), 130, None),  # worker 1 takes no step; a launcher may see to it
        ((), (), 250, "worker 1 answers and takes no step"),
        ((), (1,), 250, None),  # it is dead, and nobody waits for it
        ((), (2,), 70, None),
        ((), (2,), 130, "worker 1 cannot join while worker 2 is gone"),
        ((2,), (2,), 130, None),
        ((2,), (), 10, "worker 2 came after the start"),
    ],
)
def test_a_new_start_is_wanted_where_more_workers_would_take_part(
    clock, tmp_path, monkeypatch, absent, unanswering, seconds, says
):
    """Of three workers all but worker 1 take a step each second, and those that do not answer."""
    config = Config(train=TrainConfig(stall_timeout=60, start_timeout=60))
    cluster = Cluster(
        {"worker": ("localhost:1", "localhost:2", "localhost:3")},
        role="chief",
        index=0,
        absent=frozenset(absent),
    )
    store = Store()
    store.steps = [0, 0, 0]
    monkeypatch.setattr(
        executors, "silent", lambda workers: [w for w in workers if w[0] in unanswering]
    )
    executor = executors.OnCluster(
        config, store, cluster, Coordinator(), None, lambda: None, None, tmp_path
    )
    for second in range(seconds):
        clock.now = float(second)
        store.steps = [0 if w in (1, *unanswering) else second for w in range(3)]
        executor.advance(sum(store.steps), 1000)
    why = executor.why_start_anew()
    assert why is None if says is None else why.startswith(says)
