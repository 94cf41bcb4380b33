"""A cluster of processes on this machine, kept alive until the chief has ended.

Each process gets TF_CONFIG with ports on the loopback interface and a log in RUN/logs. The chief's
output goes to the terminal too. No process outlives this one, however it ends.
"""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from model import checkpoint, run_folder
from model.cluster import EXIT_TRY_AGAIN, answers, port_is_free
from model.interruption import Interrupted, Signals
from model.launch import processes
from model.telemetry import report
from model.train import EXIT_INTERRUPTED, EXIT_USAGE

PORT_TIMEOUT = 10.0  # seconds that a dead worker's port may stay taken by somebody else


class _Restarts:
    """Counts how often one thing was started again, and forgets it once that has led further.

    Args:
        name: of the thing, for messages.
        most: restarts in a row that lead no further, before it is given up.
        reached: function that says how far training is, as a number that grows.
    """

    def __init__(self, name, most, reached):
        self._name, self._most, self._reached = name, most, reached
        self._count = 0
        self._furthest = reached()

    def delay(self):
        """Seconds until it may start again, longer each time without progress; None: never."""
        reached = self._reached()
        if reached > self._furthest:
            self._count, self._furthest = 0, reached
        self._count += 1
        if self._count > self._most:
            report(
                f"model.launch: gave up {self._name} after {self._most} restarts without progress"
            )
            return None
        report(f"model.launch: starting {self._name} again ({self._count} of {self._most})")
        return min(0.5 * 2 ** (self._count - 1), 30.0)


@dataclasses.dataclass
class Member:
    """One process of the cluster."""

    role: str
    index: int
    process: subprocess.Popen
    restarts: _Restarts
    started: float  # time.monotonic()
    answered: float | None = None  # time.monotonic() when its server last gave a sign of life
    restart_at: float | None = None  # time.monotonic() when a dead one is started again

    @property
    def name(self):
        return f"{self.role} {self.index}"


def launch(num_tasks, max_restarts, run_dir, train_arguments, timeouts):
    """Runs a cluster until its chief ends; returns the chief's exit code.

    A worker that dies or hangs is started again on the same port. When a ps dies, or a worker that
    trains without any, or the chief says that starting again may help (exit code 75), all start
    again, on other ports, from the newest checkpoint. Ctrl-C and SIGTERM let the chief write a
    checkpoint first.

    Args:
        num_tasks: {role: number of processes}.
        timeouts: a TrainConfig.
    """
    # What a start adds to the metrics may be lost with it: what is saved is there for the next one.
    restarts = _Restarts("the cluster", max_restarts, lambda: _newest_step(run_dir))
    try:
        with Signals():
            while True:
                cluster = _LocalCluster(num_tasks, run_dir, train_arguments, max_restarts, timeouts)
                with cluster:
                    exit_code = cluster.wait()
                if exit_code != EXIT_TRY_AGAIN or cluster.has_given_up:
                    return exit_code
                delay = restarts.delay()
                if delay is None:
                    return exit_code
                time.sleep(delay)
    except Interrupted as interrupted:
        report("model.launch: interrupted; all processes are stopped")
        by_hand = interrupted.number == signal.SIGINT
        return EXIT_INTERRUPTED if by_hand else EXIT_TRY_AGAIN


class _LocalCluster:
    """The processes of one start. Leaving the context stops all of them."""

    def __init__(self, num_tasks, run_dir, train_arguments, max_restarts, timeouts):
        self._run_dir = Path(run_dir)
        self._arguments = train_arguments
        self._max_restarts = max_restarts
        self.has_given_up = False  # a worker: what it ends with would end it in every cluster
        self._timeouts = timeouts
        self._probed = time.monotonic()
        ports = iter(free_ports(sum(num_tasks.values())))
        self._addresses = {
            role: [f"127.0.0.1:{next(ports)}" for _ in range(count)]
            for role, count in num_tasks.items()
        }
        self._is_synchronous = "ps" not in num_tasks
        self._members: list[Member] = []
        self._events = run_folder.Events(run_dir)

    def __enter__(self):
        (self._run_dir / "logs").mkdir(parents=True, exist_ok=True)
        try:
            # The chief last: it reports on the others.
            for role in ("ps", "worker", "chief"):
                for index in range(len(self._addresses.get(role, ()))):
                    self._members.append(self._member(role, index))
        except BaseException:
            self._stop()
            raise
        pids = ", ".join(f"{m.name} (pid {m.process.pid})" for m in self._members)
        report(f"model.launch: started {pids}; logs in {self._run_dir / 'logs'}")
        return self

    def __exit__(self, kind, *error):
        # The chief of a synchronous training that has lost another process hears no signal.
        self._stop(self._timeouts.grace if kind or not self._is_synchronous else 0.0)

    def _member(self, role, index):
        restarts = _Restarts(f"{role} {index}", self._max_restarts, self._size_of_metrics)
        return Member(role, index, self._start(role, index), restarts, time.monotonic())

    def _size_of_metrics(self):
        """How far the others are, who go on while a worker is away."""
        try:
            return (self._run_dir / "metrics.jsonl").stat().st_size
        except OSError:
            return 0

    def wait(self):
        """Watches the processes until the chief ends; returns its exit code."""
        while True:
            for event in self._events.new():
                if event["event"] == "hung":
                    self._end_hung(event)
            self._end_silent()
            for member in self._members:
                exit_code = self._look_after(member)
                if exit_code is not None:
                    return exit_code
            time.sleep(0.2)

    def _look_after(self, member):
        """Replaces a dead worker; returns an exit code when the whole cluster has to end."""
        if member.restart_at is not None:
            if time.monotonic() >= member.restart_at:
                self._replace(member)
            return None
        exit_code = member.process.poll()
        if exit_code is None:
            return None
        if member.role == "chief":
            if exit_code == EXIT_TRY_AGAIN or exit_code < 0:
                self._say_ended(member, exit_code)
            self._let_servers_end(exit_code)
            return exit_code if exit_code >= 0 else EXIT_TRY_AGAIN
        if exit_code == 0 and (self._is_synchronous or run_folder.is_completed(self._run_dir)):
            return None
        self._say_ended(member, exit_code)
        if exit_code == EXIT_USAGE:  # starting it again would end in the same way
            report(f"model.launch: its log says: {self._last_line(member)}")
            return exit_code
        if member.role == "ps" or self._is_synchronous:
            return EXIT_TRY_AGAIN
        delay = member.restarts.delay()
        if delay is None:
            self.has_given_up = True
            return EXIT_TRY_AGAIN
        member.restart_at = time.monotonic() + delay
        return None

    def _say_ended(self, member, exit_code):
        how = _describe(exit_code)
        report(f"model.launch: {member.name} ended with {how}")
        run_folder.add_event(self._run_dir, member.name, "died", how=how)

    def _replace(self, member):
        """Starts a dead worker again, unless something else has taken its port meanwhile."""
        address = self._addresses[member.role][member.index]
        if port_is_free(int(address.rsplit(":", 1)[1])):
            member.restart_at = None
            member.process = self._start(member.role, member.index)
            member.started, member.answered = time.monotonic(), None
            report(f"model.launch: {member.name} is pid {member.process.pid}")
        elif time.monotonic() > member.restart_at + PORT_TIMEOUT:
            member.restart_at = float("inf")
            report(
                f"model.launch: another process has taken the port of {member.name}, {address}: "
                "the cluster starts again on other ports"
            )
            self._chief.terminate()  # it saves and ends with 75

    def _end_hung(self, event):
        """Kills a worker of which the chief says that it hangs; it is replaced as a dead one is."""
        for member in self._members:
            # One that is younger than its silence was started because of it, and gets its time.
            age = time.monotonic() - member.started
            allowance = min(event["seconds"], self._timeouts.start_timeout)
            if member.name == event["task"] and age >= allowance:
                self._kill(member, event["seconds"])

    def _end_silent(self):
        """Kills workers whose servers give no sign of life.

        The chief may be unable to say so: one that stops while it joins again keeps the chief's
        whole process waiting inside TensorFlow.
        """
        now = time.monotonic()
        if self._is_synchronous or now - self._probed < self._timeouts.stall_timeout / 10:
            return
        self._probed = now
        for member in self._members:
            if member.role != "worker" or member.restart_at is not None:
                continue
            if answers(self._addresses[member.role][member.index], timeout=0.5):
                member.answered = time.monotonic()
            elif member.answered is None and now - member.started > self._timeouts.start_timeout:
                self._kill(member, now - member.started)
            elif member.answered and now - member.answered > self._timeouts.stall_timeout:
                self._kill(member, now - member.answered)

    def _kill(self, member, seconds):
        report(f"model.launch: {member.name} hangs since {seconds:.0f} s; killing it")
        member.process.kill()

    @property
    def _chief(self):
        return next(member.process for member in self._members if member.role == "chief")

    def _start(self, role, index):
        environment = dict(os.environ)
        environment["TF_CONFIG"] = json.dumps(
            {"cluster": self._addresses, "task": {"type": role, "index": index}}
        )
        command = [sys.executable, "-m", "model.train", *self._arguments]
        log_path = self._log_path(role, index)
        # A session of its own: Ctrl-C reaches the launcher alone, which ends them in order.
        options = {"env": environment, "stderr": subprocess.STDOUT, "start_new_session": True}
        if role != "chief":
            with open(log_path, "ab") as log:
                return processes.start(command, stdout=log, **options)
        chief = processes.start(command, stdout=subprocess.PIPE, **options)
        threading.Thread(target=_tee, args=(chief.stdout, log_path), daemon=True).start()
        return chief

    def _log_path(self, role, index):
        return self._run_dir / "logs" / f"{role}-{index}.log"

    def _last_line(self, member):
        lines = self._log_path(member.role, member.index).read_text(errors="replace").splitlines()
        return lines[-1] if lines else "nothing"

    def _let_servers_end(self, chief_exit_code):
        """After a completed training the servers end by themselves; gives them a moment to."""
        deadline = time.monotonic() + (5.0 if chief_exit_code == 0 else 0.0)
        while time.monotonic() < deadline:
            if all(member.process.poll() is not None for member in self._members):
                return
            time.sleep(0.1)

    def _stop(self, grace=0.0):
        """Ends all: the chief first, which has `grace` seconds to save with the others' help."""
        chiefs = [member.process for member in self._members if member.role == "chief"]
        processes.stop(chiefs, timeout=grace)
        processes.stop([member.process for member in self._members])


def _newest_step(run_dir):
    """The step that the next start would go on from; 0 where nobody can tell at the moment."""
    try:
        return checkpoint.newest_step(run_dir)
    except checkpoint.UnreachableError:
        return 0


def _tee(stream, log_path):
    """Copies the chief's output to its log and to the terminal.

    Goes on when one of them is full or gone: the chief must never wait for somebody to read.
    """
    with contextlib.suppress(OSError), open(log_path, "ab", buffering=0) as log:
        for line in iter(stream.readline, b""):
            for target in (log, sys.stderr.buffer):
                with contextlib.suppress(OSError):
                    target.write(line)
                    target.flush()


def free_ports(count):
    """Loopback ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]
    finally:
        for candidate in sockets:
            candidate.close()


def _describe(exit_code):
    if exit_code < 0:
        return f"signal {signal.Signals(-exit_code).name}"
    return f"exit code {exit_code}"
