"""Trains through random faults, and compares with a training of the same images without any.

    python -m benchmarks.soak --faults=60

Chief, ps and two workers under the launcher are killed, told to end and stopped at random steps,
every fourth time right after the fault before. Then training has to end by itself with exit code 0,
every step that a checkpoint held must have survived, no process may be left over, and the network
must rank as well as those without faults: its MAP@100 within what their intervals span. Two are
trained without, to show by how much trainings differ by chance: the intervals of the differences,
paired over the evaluation images, leave that out.
"""

import argparse
import contextlib
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import faults, usage
from benchmarks.fault_rows import FaultError, number_of, progress_steps
from benchmarks.process_faults import Training
from eval import comparison, metrics
from model import checkpoint, run_folder

KINDS = {  # (process, signal) -> how many of 60 faults
    ("worker 0", signal.SIGKILL): 10,
    ("worker 1", signal.SIGKILL): 10,
    ("worker 0", signal.SIGTERM): 7,
    ("worker 1", signal.SIGTERM): 7,
    ("worker 0", signal.SIGSTOP): 5,
    ("worker 1", signal.SIGSTOP): 5,
    ("ps 0", signal.SIGKILL): 3,
    ("ps 0", signal.SIGTERM): 3,
    ("ps 0", signal.SIGSTOP): 2,
    ("chief 0", signal.SIGKILL): 3,
    ("chief 0", signal.SIGTERM): 4,
    ("chief 0", signal.SIGSTOP): 1,
}
HASTY = 4  # every so many faults one comes before the last has been mended
HASTE = 3.0  # seconds that it comes after the last, at most
BATCH = 32
NETWORK = (
    *("--set=network.width=0.15", f"--set=input.batch_size={BATCH}"),
    *("--set=input.shuffle_buffer=2000", "--set=train.log_every=1"),
)


class Fault(NamedTuple):
    """What happens to a process, and when."""

    name: str
    signal: signal.Signals
    at: float | None  # share of the training's steps; None: right after the fault before


class Outcome(NamedTuple):
    """What a training that has ended came to."""

    seconds: float
    steps: int
    samples: int
    starts: int  # of the whole cluster
    resumed: list[tuple[int, int, int]]  # (last step seen, newest held before, went on from)
    endings: Counter[str]  # "worker SIGKILL": how often a process ended so

    def __str__(self):
        lost = [seen - resumed for seen, _, resumed in self.resumed if seen > resumed]
        endings = ", ".join(f"{count} {how}" for how, count in sorted(self.endings.items()))
        return (
            f"{self.seconds:.0f} s, {self.steps:,} steps, {self.samples:,} images; cluster started "
            f"{self.starts} times, {sum(lost)} steps trained again, {max(lost, default=0)} at most "
            f"at once; ended: {endings or 'none before its time'}"
        )


def main(argv: list[str] | None = None) -> int:
    """Trains and evaluates with and without faults; 1 where MAP@100 is not the same."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    parser.add_argument("--faults", type=int, default=60, help="how many (default: 60)")
    parser.add_argument("--samples", type=int, default=100_000, help="images (default: 100000)")
    parser.add_argument("--plain", type=int, default=2, help="trainings without (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other faults")
    parser.add_argument("--output", help="new folder for the runs (default: one that is removed)")
    options = parser.parse_args(argv)
    with contextlib.ExitStack() as stack:
        folder = Path(options.output or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        # Many shards, as large datasets have them: each start reads others of them first.
        shards = faults.make_shards(folder, num_train=6000, num_eval=2000, num_shards=60)
        plan = draw(options.faults, options.seed)
        outcome = soak(shards, folder / "hit", options.samples, plan, options.seed)
        print(f"with {options.faults} faults: {outcome}", flush=True)
        plain = [folder / f"plain-{number}" for number in range(options.plain)]
        for run in plain:
            print(f"without faults: {soak(shards, run, options.samples, [])}", flush=True)
        return 0 if report(shards, plain, folder / "hit") else 1


def draw(number: int, seed: int) -> list[Fault]:
    """Random faults, of each kind as many as its share, in the order in which they happen."""
    generator = random.Random(seed)
    counts = [count * -(-number // sum(KINDS.values())) for count in KINDS.values()]
    kinds = generator.sample(list(KINDS), number, counts=counts)
    times = sorted(generator.uniform(0.02, 0.95) for _ in kinds)
    return [
        Fault(name, kind, None if i % HASTY == HASTY - 1 else at)
        for i, ((name, kind), at) in enumerate(zip(kinds, times, strict=True))
    ]


def soak(shards: Path, run: Path, samples: int, plan: list[Fault], seed: int = 0) -> Outcome:
    """Trains through the planned faults to the end; FaultError where they cost what they may not.

    What is demanded: the launcher brings training back after each, and ends with 0 when all images
    are counted; training goes on from no step before one that a checkpoint held; no process stays.
    """
    generator = random.Random(seed)
    started = time.monotonic()
    training = Training(shards, run, f"--set=train.samples={samples}", *NETWORK)
    try:
        for number, fault in enumerate(plan, 1):
            if fault.at is None:
                time.sleep(generator.uniform(0.0, HASTE))
            else:
                wait_for_step(training, int(fault.at * samples / BATCH))
            strike(training, fault)
            print(
                f"{time.monotonic() - started:5.0f} s, step {training.last_step():,}: "
                f"{number} of {len(plan)}, {fault.name} {fault.signal.name}",
                flush=True,
            )
        wait_for_step(training, samples // BATCH)
        exit_code = training.process.wait(usage.DEADLINE)
    finally:
        training.close()
    return check(training, samples, exit_code, time.monotonic() - started)


def wait_for_step(training: Training, step: int) -> None:
    """Waits until training has come that far; FaultError if it stands still."""
    while (seen := training.last_step()) < step:
        if training.process.poll() == 0:
            return
        training.wait_until(lambda: training.last_step() != seen, f"step {step}")


def strike(training: Training, fault: Fault) -> None:
    """Sends the signal to a process that lives; waits for the next one where it does not."""

    def struck():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(training.pids()[fault.name])
            # The number of a process that has ended may be another's by now.
            is_ours = process.ppid() == training.process.pid
            if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                process.send_signal(fault.signal)
                return True
        return False

    training.wait_until(struck, f"{fault.name} lives")


def check(training: Training, samples: int, exit_code: int, seconds: float) -> Outcome:
    """What a training that has ended came to; FaultError where it is not what it should be."""
    output = training.output()
    end = json.loads(run_folder.read_completed(training.run) or "null")
    newest = checkpoint.list_checkpoints(training.run)[-1]
    if exit_code or end is None or end["samples"] < samples or newest.step != end["step"]:
        raise FaultError(f"exit code {exit_code}, completed: {end}, newest: {newest}:\n{output}")
    if "Traceback" in output:
        raise FaultError(f"somebody's error was nobody's:\n{output}")
    resumed = list(resumptions(output))
    for _, held, step in resumed:
        if step < held:
            raise FaultError(f"a checkpoint held {held}, and {step} was gone on from:\n{output}")
    training.wait_until_gone()
    found = re.findall(r"(\w+) \d ended with (?:signal )?([\w ]+)", output)
    return Outcome(
        seconds,
        *(end["step"], end["samples"]),
        output.count("model.launch: started"),
        resumed,
        Counter(" ".join(words) for words in found),
    )


def resumptions(output: str) -> Iterator[tuple[int, int, int]]:
    """(last step seen, newest step that a checkpoint held, step gone on from) of each start."""
    seen = held = 0
    for line in output.splitlines():
        if found := re.match(r"wrote .*/step-(\d+) ", line):
            held = int(found[1])
        elif found := re.match(r"Going on from step ([\d,]+)", line):
            yield seen, held, number_of(found[1])
        elif steps := progress_steps(line):
            seen = steps[0]


def report(shards: Path, plain: list[Path], hit: Path) -> bool:
    """Evaluates and prints all; whether MAP@100 with faults lies within what the others span."""
    runs = []
    for run in (*plain, hit):
        evaluate = ["-m", "eval.evaluate", f"--workdir={run}", f"--data={shards}", "--split=eval"]
        usage.run([sys.executable, *evaluate], run.with_suffix(".eval.log"))
        runs.append(comparison.read(str(run / "eval" / "eval")))
        low, high = interval_of(runs[-1])
        print(f"{run.name}: MAP@100 {runs[-1].headline:.4f}, 95%: {low:.4f} to {high:.4f}")
    for difference in comparison.compare(runs)["differences"]:
        found = difference[metrics.HEADLINE]
        low, high = found["interval"]
        name = Path(difference["name"]).parents[1].name
        print(f"{name} - plain-0: {found['difference']:+.4f}, paired: {low:+.4f} to {high:+.4f}")
    lows, highs = zip(*map(interval_of, runs[:-1]), strict=True)
    return min(lows) <= runs[-1].headline <= max(highs)


def interval_of(run: comparison.Run) -> tuple[float, float]:
    """The 95% interval of a run's MAP@100."""
    return tuple(run.report["metrics"][metrics.HEADLINE]["interval"])


if __name__ == "__main__":
    sys.exit(main())
