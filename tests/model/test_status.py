"""What `python -m model.status` says of runs in every state."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from model import config as config_module
from model import heartbeat, run_folder, status
from model.heartbeat import Heartbeat

NOW = 1_700_000_000.0


@pytest.fixture
def run(tmp_path):
    (tmp_path / "tasks").mkdir()
    config = config_module.from_dict({"train": {"samples": 1000}})
    (tmp_path / "config.toml").write_text(config_module.to_toml(config))
    return tmp_path


def _sign(run, task, seen_ago, pid=None, **more):
    sign = {
        "task": task,
        "host": socket.gethostname(),
        "pid": pid or os.getpid(),
        "started": NOW - 7200,
    }
    path = run / "tasks" / f"{task.replace(' ', '-')}.json"
    path.write_text(json.dumps({**sign, "seen": NOW - seen_ago, **more}))


def _ended_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_each_process_is_alive_hung_dead_or_ended(run):
    pid = _ended_pid()
    _sign(run, "chief 0", 2)
    _sign(run, "ps 0", 60)
    _sign(run, "worker 0", 60, pid=pid)
    _sign(run, "worker 1", 300, host="elsewhere")
    _sign(run, "worker 2", 30, ended=True, message="no answer")
    here = socket.gethostname()
    assert list(status.describe(run, NOW))[2:] == [
        f"chief 0      alive: pid {os.getpid()} on {here}, for 2 hours",
        f"ps 0         hung: pid {os.getpid()} on {here}, last seen 60 seconds ago",
        f"worker 0     dead: pid {pid} on {here}, last seen 60 seconds ago",
        f"worker 1     hung or dead: pid {os.getpid()} on elsewhere, last seen 5 minutes ago",
        "worker 2     ended 30 seconds ago",
        "last trouble, 30 seconds ago: worker 2: no answer",
    ]


def _event(run, ago, task, event, **more):
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - ago))
    with open(run / "events.jsonl", "a") as file:
        file.write(json.dumps({"time": stamp, "task": task, "event": event, **more}) + "\n")


def test_the_newest_trouble_wins_whether_a_process_or_an_event_tells_it(run):
    def trouble():
        return list(status.describe(run, NOW))[-1]

    _event(run, 600, "worker 1", "hung", seconds=45)
    assert trouble() == "last trouble, 10 minutes ago: worker 1 hung for 45 s"
    _event(run, 400, "worker 1", "died", how="signal SIGKILL")
    assert trouble() == "last trouble, 7 minutes ago: worker 1 ended with signal SIGKILL"
    _sign(run, "ps 0", 300, ended=True, message="no answer from the chief")
    assert trouble() == "last trouble, 5 minutes ago: ps 0: no answer from the chief"
    _event(run, 200, "ps 0", "leaving")
    _event(run, 190, "chief 0", "read")  # that went well
    assert trouble() == "last trouble, 3 minutes ago: ps 0 was told to leave"


def test_what_the_newest_start_runs_with_is_said(run):
    lines = [{"tensorflow": "1.0", "keras": "1.0", "commit": None}, {"tensorflow": "2.0"}]
    lines[1] |= {"keras": "3.0", "commit": "abc-dirty"}
    (run / "versions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "with tensorflow 2.0, keras 3.0, commit abc-dirty" in list(status.describe(run, NOW))


def test_progress_is_the_last_whole_line_of_the_metrics(run):
    assert list(status.describe(run, NOW)) == ["no step yet, of 1,000 images", "no checkpoint yet"]
    line = {"step": 8, "samples": 256, "train/images_per_second": 12.0, "train/loss": 3.25}
    (run / "metrics.jsonl").write_text(json.dumps(line) + '\n{"step": 9, "sam')
    (progress, _) = status.describe(run, NOW)
    assert progress == "step 8, 256 of 1,000 images (25.6%), 12.0 images/s, loss 3.2500"
    run_folder.mark_completed(run, {"step": 32, "samples": 1024, "seconds": 9.0})
    assert next(iter(status.describe(run, NOW))) == "trained: 1,024 images"


def test_a_process_beats_tells_its_end_and_notes_a_predecessor_that_was_killed(run):
    _sign(run, "worker 0", 60, pid=1)
    path = run / "tasks" / "worker-0.json"
    with Heartbeat(run, "worker 0"):
        sign = heartbeat.read(path)
        assert (sign["pid"], "ended" in sign) == (os.getpid(), False)
        assert sign["before"]["message"] == "killed, or its host was lost"
    assert heartbeat.read(path)["ended"]
    with contextlib.suppress(ValueError), Heartbeat(run, "worker 0"):
        raise ValueError("no such split")
    sign = heartbeat.read(path)
    last = list(status.describe(run, sign["seen"] + 1))[-1]
    assert last == "last trouble, 1 seconds ago: worker 0: no such split"


def test_a_folder_without_a_run_is_refused_with_code_2(tmp_path, capsys):
    assert status.main([str(tmp_path)]) == 2
    assert "is no folder of a training run" in capsys.readouterr().err
    assert status.main(["gs://bucket/run"]) == 2
    assert "cannot lie in an object store: gs://bucket/run" in capsys.readouterr().err


def test_status_needs_no_tensorflow(run):
    code = f"import sys; from model import status; status.main([{str(run)!r}]); "
    code += "print('tensorflow' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.endswith("False\n")
