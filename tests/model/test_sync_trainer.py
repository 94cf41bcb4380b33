"""Synchronous training with two real processes: equal to each other, and to one process."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

from model import checkpoint
from model.launch import __main__ as launcher
from model.launch.local import free_ports

SMALL = (
    "--set=network.width=0.1",
    "--set=network.middle_modules=0",
    "--set=network.dropout=0.5",
    "--set=input.image_size=48",
    "--set=optimizer.name=sgd",
    "--set=optimizer.learning_rate=0.1",
    "--set=train.mode=synchronous",
)
SYNCHRONOUS = ("--set", "train.mode=synchronous")
TIMEOUT = 150


def _start(module, *arguments, task=None, ports=()):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    if task is not None:
        addresses = [f"127.0.0.1:{port}" for port in ports]
        role = {"type": "worker", "index": task - 1} if task else {"type": "chief", "index": 0}
        tf_config = {"cluster": {"chief": addresses[:1], "worker": addresses[1:]}, "task": role}
        environment["TF_CONFIG"] = json.dumps(tf_config)
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(*processes):
    """[(exit code, standard error)] of processes that run side by side."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)
        outputs = [process.communicate(timeout=TIMEOUT)[1] for process in processes]
    return [
        (process.returncode, output) for process, output in zip(processes, outputs, strict=True)
    ]


def _steps(folder, *overrides, together):
    """What `synchronous_steps` left: in one process, or in each of two."""
    paths = [folder / f"{together}-{task}.npz" for task in range(2 if together else 1)]
    ports = free_ports(2)
    processes = [
        _start(
            "tests.model.synchronous_steps",
            *(f"--output={path}", "--images=8", *SMALL, *overrides),
            task=task if together else None,
            ports=ports,
        )
        for task, path in enumerate(paths)
    ]
    for exit_code, output in _finish(*processes):
        assert exit_code == 0, output
    return [dict(np.load(path)) for path in paths]


@pytest.mark.parametrize(
    ("of_two", "of_one"),
    [
        ("--set=train.synchronized_batch_norm=true", "--set=train.micro_batches=1"),
        # Each process normalizes its own images, as parts of a batch are.
        pytest.param(
            "--set=train.synchronized_batch_norm=false",
            "--set=train.micro_batches=2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_are_equal_and_match_one_with_the_doubled_batch(tmp_path, of_two, of_one):
    one, other = _steps(tmp_path, of_two, "--set=input.batch_size=4", together=True)
    (alone,) = _steps(tmp_path, of_one, "--set=input.batch_size=8", together=False)
    assert (one["step"], one["samples"]) == (alone["step"], alone["samples"]) == (3, 24)
    assert one["loss_sum"] == pytest.approx(alone["loss_sum"], rel=1e-5)
    assert one.keys() == other.keys() == alone.keys()
    for path, expected in alone.items():
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)
        np.testing.assert_allclose(one[path], expected, rtol=1e-4, atol=1e-5, err_msg=path)
    assert len(alone) > 100


# ---- Through the launcher ----


def _digests(launch):
    """What each process says of its parameters at the end, the chief first."""
    logs = (launch.run / "logs" / name for name in ("chief-0.log", "worker-0.log"))
    return [re.findall(r"parameters ([0-9a-f]{64})", log.read_text())[-1] for log in logs]


@pytest.mark.slow
def test_a_cluster_trains_resumes_and_stays_equal(start):
    launch = start("--set", "train.samples=480", *SYNCHRONOUS)
    assert launch.end() == 0, launch.output()
    newest = checkpoint.list_checkpoints(launch.run)[-1]
    state = checkpoint.read_state(newest.path)
    assert (state["step"], state["samples"]) == (32, 512)  # 16 a step, 4 steps a closure
    chief, worker = _digests(launch)
    assert chief == worker

    again = start("--set", "train.samples=640", *SYNCHRONOUS)
    assert again.end() == 0, again.output()
    assert "Going on from step 32" in again.output()
    assert checkpoint.list_checkpoints(launch.run)[-1].step == 40
    assert len(set(_digests(again))) == 1
    assert _digests(again)[0] != chief
    again.wait_until_gone()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker 0", "chief 0"])
def test_after_the_death_of_a_process_all_go_on_from_the_newest_checkpoint(start, victim):
    launch = start("--set", "train.samples=3200", *SYNCHRONOUS)
    launch.wait_until(lambda: checkpoint.list_checkpoints(launch.run), "a checkpoint")
    os.kill(launch.pids()[victim], signal.SIGKILL)
    assert launch.end() == 0, launch.output()
    assert "Going on from step" in launch.output()
    assert json.loads((launch.run / "completed.json").read_text())["samples"] >= 3200
    assert len(set(_digests(launch))) == 1
    launch.wait_until_gone()


@pytest.mark.slow
def test_all_that_are_told_to_end_do_so_when_the_chief_has_saved(start):
    launch = start("--set", "train.samples=3200", *SYNCHRONOUS)
    launch.wait_until(lambda: checkpoint.list_checkpoints(launch.run), "a checkpoint")
    for pid in launch.pids().values():
        os.kill(pid, signal.SIGTERM)
    assert launch.end() == 0, launch.output()
    saved = re.search(r"told to end \(SIGTERM\); step ([\d,]+) is saved", launch.output())
    assert saved, launch.output()
    assert f"Going on from step {saved[1]}," in launch.output()
    launch.wait_until_gone()


@pytest.mark.slow
def test_a_stopped_process_is_noticed_and_all_start_again(start):
    launch = start("--set", "train.samples=3200", "--set", "train.stall_timeout=10", *SYNCHRONOUS)
    launch.wait_until(lambda: checkpoint.list_checkpoints(launch.run), "a checkpoint")
    os.kill(launch.pids()["worker 0"], signal.SIGSTOP)
    assert launch.end() == 0, launch.output()
    assert "starting the cluster again" in launch.output()
    assert json.loads((launch.run / "completed.json").read_text())["samples"] >= 3200
    launch.wait_until_gone()


# ---- What cannot work ----


def _train(shards, run, *overrides, task, ports):
    arguments = ("--preset=demo", f"--data={shards}", f"--workdir={run}", *SMALL, *overrides)
    return _start("model.train", *arguments, task=task, ports=ports)


@pytest.mark.slow
def test_processes_of_different_configurations_do_not_train(shards, tmp_path):
    ports = free_ports(2)
    chief = _train(shards, tmp_path / "run", task=0, ports=ports)
    worker = _train(shards, tmp_path / "run", "--set=input.batch_size=7", task=1, ports=ports)
    (chief_code, _), (worker_code, output) = _finish(chief, worker)
    assert worker_code == 2
    assert "another configuration or class list than the chief" in output
    assert chief_code == 75  # it has lost the worker
    assert not checkpoint.list_checkpoints(tmp_path / "run")


@pytest.mark.slow
def test_a_process_that_does_not_come_is_named_and_waited_for_no_longer(shards, tmp_path):
    ports = free_ports(2)
    chief = _train(shards, tmp_path / "run", "--set=train.start_timeout=5", task=0, ports=ports)
    ((exit_code, output),) = _finish(chief)
    assert exit_code == 75
    assert f"Not there within 5 s: worker 0 at 127.0.0.1:{ports[1]}." in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_ps=1", "--"], "no parameter servers"),
        (["--num_workers=1", "--"], "at least 2"),
    ],
)
def test_wrong_usage_of_the_launcher_is_explained(arguments, message, tmp_path, capfd):
    training = ["--preset=demo", "--data=absent", f"--workdir={tmp_path}", *SYNCHRONOUS]
    assert launcher.main(["local", *arguments, *training]) == 2
    assert message in capfd.readouterr().err
