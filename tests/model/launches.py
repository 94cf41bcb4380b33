"""Clusters of the launcher, as real processes, for the tests that let them train or kill them."""

import json
import re
import subprocess
import sys
import time

TIMEOUT = 200.0  # seconds that a test waits for anything


class Launch:
    """A running `python -m model.launch local`."""

    def __init__(self, shards, run, *more, num_ps=None):
        self.run = run
        self.log_path = run.with_suffix(".log")
        self._log = open(self.log_path, "wb")  # noqa: SIM115
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "model.launch", "local"),
                *("--num_workers=2", *([f"--num_ps={num_ps}"] if num_ps else []), "--"),
                *("--preset=demo", f"--data={shards}", f"--workdir={run}"),
                *("--set", "network.width=0.1", "--set", "network.middle_modules=0"),
                *("--set", "input.image_size=48", "--set", "input.batch_size=8"),
                *("--set", "train.checkpoint_every=1", "--set", "train.log_every=0.5"),
                *more,
            ],
            stderr=self._log,
        )

    def output(self):
        return self.log_path.read_text()

    def pids(self):
        """{"worker 0": pid}: the newest process of each role."""
        found = re.findall(r"(\w+ \d) (?:\(pid|is pid) (\d+)", self.output())
        return {name: int(pid) for name, pid in found}

    def all_pids(self):
        return [int(pid) for pid in re.findall(r"pid (\d+)", self.output())]

    def wait_until(self, condition, what):
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{self.output()}"
            assert time.monotonic() < deadline, f"not within {TIMEOUT} s: {what}\n{self.output()}"
            time.sleep(0.1)

    def steps(self):
        try:
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return 0
        return json.loads(lines[-1])["step"] if lines else 0

    def end(self):
        """Waits for the launcher; returns its exit code."""
        return self.process.wait(TIMEOUT)

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self._log.close()


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_all_gone(pids):
    deadline = time.monotonic() + 15
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, [pid for pid in pids if _alive(pid)]
        time.sleep(0.1)
