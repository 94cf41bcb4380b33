"""Real clusters on this machine: chief, ps and workers as processes, and what kills them."""

import json
import os
import signal
import subprocess
import sys

import pytest

from model import checkpoint
from model.launch import local


def test_two_workers_and_two_ps_train_to_the_end_and_leave_no_process(start):
    launch = start("--set", "train.samples=1600", num_ps=2)
    assert launch.end() == 0, launch.output()
    state = checkpoint.read_state(checkpoint.list_checkpoints(launch.run)[-1].path)
    assert 1600 <= state["samples"] <= 1600 + 8 * 4  # the last closure's steps run to their end
    assert state["samples"] == state["step"] * 8
    assert len(launch.pids()) == 5
    launch.wait_until_gone()


def test_a_worker_killed_with_sigkill_is_replaced_and_training_ends_whole(start):
    launch = start("--set", "train.samples=9600")
    launch.wait_until(lambda: launch.last_step() > 20, "20 steps")
    victim = launch.pids()["worker 1"]
    os.kill(victim, signal.SIGKILL)
    launch.wait_until(lambda: launch.pids()["worker 1"] != victim, "a new worker")
    assert launch.end() == 0, launch.output()

    assert "worker 1 ended with signal SIGKILL" in launch.output()
    events = [json.loads(line) for line in (launch.run / "events.jsonl").read_text().splitlines()]
    died = [event for event in events if event["event"] == "died"]
    assert [(event["task"], event["how"]) for event in died] == [("worker 1", "signal SIGKILL")]
    assert launch.output().count("xception: ") == 1  # the chief was not started again
    assert launch.steps() == sorted(launch.steps())  # nothing that was done was lost
    completed = json.loads((launch.run / "completed.json").read_text())
    assert completed["samples"] >= 9600
    launch.wait_until_gone()


@pytest.mark.slow
def test_a_ps_leaves_when_it_is_read_and_the_chief_has_the_grace_to_write(
    start, tmp_path, monkeypatch
):
    slow_disk = "import os, time\nos.fsync = lambda descriptor: time.sleep(5)\n"  # 6 files: 30 s
    (tmp_path / "sitecustomize.py").write_text(slow_disk)
    paths = (str(tmp_path), os.environ.get("PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    patient = ("--set=train.stall_timeout=200", "--set=train.grace=100")
    launch = start("--set=train.checkpoint_every=1000", *patient)
    launch.wait_until(lambda: launch.last_step() > 20, "20 steps")
    before = launch.last_step()
    os.kill(launch.pids()["ps 0"], signal.SIGTERM)
    launch.wait_until(lambda: "ps 0 ended with exit code 75" in launch.output(), "the ps's end")
    assert "wrote" not in launch.output()
    launch.wait_until(lambda: "Going on from step" in launch.output(), "the next start")
    assert "the chief has read its parameters" in (launch.run / "logs/ps-0.log").read_text()
    assert "ps 0 has to leave; step" in launch.output()
    assert checkpoint.list_checkpoints(launch.run)[0].step >= before
    launch.process.kill()  # told to end, it would save for another 30 s


@pytest.mark.slow
def test_restarts_are_counted_for_each_worker_and_for_the_cluster_by_what_is_saved(start):
    patient = ("--set=train.stall_timeout=200", "--set=train.checkpoint_every=1000")
    launch = start(*patient, num_workers=3, max_restarts=1)
    launch.wait_until(lambda: launch.last_step() > 20, "20 steps")
    workers = {name: pid for name, pid in launch.pids().items() if name.startswith("worker")}
    for pid in workers.values():
        os.kill(pid, signal.SIGKILL)
    launch.wait_until(lambda: not set(workers.values()) & set(launch.pids().values()), "new ones")
    before = launch.last_step()
    launch.wait_until(lambda: launch.last_step() > before, "more steps")
    for name in workers:
        assert f"starting {name} again (1 of 1)" in launch.output()

    os.kill(launch.pids()["chief 0"], signal.SIGKILL)
    launch.wait_until(lambda: "starting the cluster again (1 of 1)" in launch.output(), "a restart")
    lines = len(launch.steps())
    launch.wait_until(lambda: len(launch.steps()) > lines, "steps that nothing keeps")
    os.kill(launch.pids()["chief 0"], signal.SIGKILL)
    assert launch.end() == 75
    assert "gave up the cluster after 1 restarts without progress" in launch.output()
    launch.wait_until_gone()


def test_ctrl_c_stops_every_process(start):
    launch = start()
    launch.wait_until(lambda: launch.last_step() > 0, "a step")
    launch.process.send_signal(signal.SIGINT)
    assert launch.end() == 130
    assert "Traceback" not in launch.output()
    launch.wait_until_gone()


def test_no_process_outlives_a_launcher_that_is_killed(start):
    launch = start()
    launch.wait_until(lambda: len(launch.pids()) == 4, "all processes")
    launch.process.kill()
    launch.process.wait()
    launch.wait_until_gone()
    assert not launch.left_over()


def test_a_wrong_configuration_ends_the_cluster_with_code_2(start):
    launch = start("--set", "optimizer.learningrate=1")
    assert launch.end() == 2
    assert "Did you mean 'learning_rate'" in launch.output()
    assert "Traceback" not in launch.output()
    launch.wait_until_gone()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["local", "--num_workers=2"], "follow `--`"),
        (["local", "--num_workers=0", "--"], "at least 1"),
        (["local", "--", "--preset=demo"], "--data"),
        (["mars", "--"], "invalid choice: 'mars'"),
        (
            ["local", "--", "--preset=demo", "--data=shards", "--workdir=s3://bucket/run"],
            "cannot lie in an object store: s3://bucket/run",
        ),
    ],
)
def test_wrong_usage_of_the_launcher_is_explained(arguments, message):
    result = subprocess.run(
        [sys.executable, "-m", "model.launch", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_checkpoints_that_cannot_be_looked_at_are_no_progress_and_no_end(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.symlink_to(folder)  # ELOOP: root, too, is refused
    with pytest.raises(checkpoint.UnreachableError):
        checkpoint.newest_step(tmp_path)
    restarts = local._Restarts("the cluster", 1, lambda: local._newest_step(tmp_path))
    assert restarts.delay() == 0.5
    folder.unlink()
    saved = folder / "step-00000007"
    saved.mkdir(parents=True)
    (saved / "state.json").write_text("{}")
    assert checkpoint.newest_step(tmp_path) == 7
    assert restarts.delay() == 0.5  # the first again: training has come further
    assert restarts.delay() is None
