"""The progress line, metrics.jsonl and TensorBoard's event files say the same of a run."""

import json

import pytest
import tensorflow as tf

from model import config as config_module
from model import telemetry
from model.parameter_store import Progress, Work
from model.telemetry import Telemetry


class _Store:
    """Two workers and two ps; the second worker is twice as slow."""

    def __init__(self):
        self.now = Progress(step=100, samples=3200, loss_sum=0.0, staleness_sum=0.0)
        self.rows = [Work(0, 0, 0, 0, 0), Work(0, 0, 0, 0, 0)]

    def progress(self):
        return self.now

    def work(self):
        return self.rows

    def step_bytes(self):
        return {"ps 0": 3_000_000, "ps 1": 1_000_000}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: now[0])
    return now


def _read_events(folder):
    """{name: [(step, value)]} of all event files."""
    found = {}
    for path in folder.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def test_line_json_and_event_files_say_what_a_minute_brought(tmp_path, clock, capfd):
    config = config_module.from_dict({"train": {"samples": 6400, "log_every": 50.0}})
    store = _Store()
    seen = Telemetry(config, tmp_path, store, lambda step, samples: 0.5, 40.0, lambda: (1, 2))
    clock[0] += 10
    seen.update(Progress(103, 3296, 9.0, 1.0))  # too early for a line
    clock[0] += 50
    store.rows = [Work(20, 640, 10.0, 40.0, 5.0), Work(10, 320, 8.0, 45.0, 2.0)]
    seen.update(Progress(130, 4160, 60.0, 15.0), damaged_records=3)

    expected = {
        "train/loss": 2.0,  # 60 / 30 steps
        "train/learning_rate": 0.5,
        "train/images_per_second": 16.0,  # 960 / 60 s
        "train/staleness": 0.5,
        "train/workers_alive": 1,
        "input/damaged_records": 3,
        "worker/0/images_per_second": 640 / 60,
        "worker/0/pull_seconds": 0.5,
        "worker/0/compute_seconds": 2.0,
        "worker/0/push_seconds": 0.25,
        "worker/1/images_per_second": 320 / 60,
        "worker/1/pull_seconds": 0.8,
        "worker/1/compute_seconds": 4.5,
        "worker/1/push_seconds": 0.2,
        "ps/0/megabytes_per_second": 1.5,  # 3 MB a step, 30 steps, 60 s
        "ps/1/megabytes_per_second": 0.5,
    }
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    logged = json.loads(line)
    assert (logged.pop("step"), logged.pop("samples"), logged.pop("seconds")) == (130, 4160, 100.0)
    assert logged == pytest.approx(expected)
    events = _read_events(tmp_path / "tensorboard")
    assert events.keys() == expected.keys()
    for name, value in expected.items():
        assert events[name] == [(130, pytest.approx(value))]
    said = capfd.readouterr().err
    assert "4,160 of 6,400 images    16.0 images/s  loss   2.0000  rate 5.00e-01" in said
    # 2,240 images are left, at 16 a second.
    assert "staleness 0.5  workers 1 of 2  damaged records 3  left 0:02:20" in said


def test_each_worker_and_ps_is_told_of_once_a_minute_and_at_the_end(tmp_path, clock, capfd):
    store = _Store()
    seen = Telemetry(config_module.Config(), tmp_path, store, lambda *at: 0.5, 0.0, lambda: (2, 2))
    for seconds in range(10, 100, 10):
        clock[0] += 10
        store.rows = [Work(seconds, 32 * seconds, 0, 2 * seconds, 0)] * 2
        progress = Progress(100 + 2 * seconds, 3200 + 64 * seconds, 0.0, 0.0)
        seen.update(progress, final=seconds == 90)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    name = "worker/1/images_per_second"
    assert [name in line for line in lines] == [False] * 5 + [True] + [False] * 2 + [True]
    for line in (lines[5], lines[8]):  # of 60 and of 30 seconds
        assert line[name] == pytest.approx(32.0)
        assert line["worker/1/compute_seconds"] == pytest.approx(2.0)
        assert line["ps/0/megabytes_per_second"] == pytest.approx(6.0)  # 3 MB, 2 steps a second
        assert "worker/1/pull_seconds" in line
    assert all(line["train/workers_alive"] == 2 for line in lines)


def test_in_one_process_nothing_is_said_of_workers_and_servers(tmp_path, clock, capfd):
    store = _Store()
    store.rows = store.rows[:1]
    seen = Telemetry(config_module.Config(), tmp_path, store, lambda step, samples: 0.5, 0.0)
    clock[0] += 10
    seen.update(Progress(110, 3520, 10.0, 0.0), final=True)
    logged = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert not [name for name in logged if name.startswith("ps/") or "alive" in name]
    assert logged["worker/0/images_per_second"] == 0.0
    assert "workers" not in capfd.readouterr().err


def test_a_line_that_cannot_be_written_is_said_and_no_reason_to_stop(tmp_path, clock, capfd):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    config = config_module.Config()
    seen = Telemetry(config, tmp_path, _Store(), lambda step, samples: 0.5, 0.0, lambda: (2, 2))
    clock[0] += 10
    seen.update(Progress(110, 3520, 10.0, 0.0))
    said = capfd.readouterr().err
    assert "step     110" in said
    assert f"This line is missing in {tmp_path}" in said
