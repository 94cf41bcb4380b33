"""What asynchronous training costs beside the same steps in one process, where computing dominates.

    python -m benchmarks.async_efficiency

Trains the same network on the same shards, in turns, each run in processes of its own:

    alone         one process, pinned to a core
    two alone     two such processes that know nothing of each other, on a core each: what this
                  machine's cores, caches and memory leave of twice the speed
    1, 2 workers  a chief, a ps, and workers that are pinned to a core each

and prints images/s by the clock and CPU seconds an image, of all processes of a run together, as
medians over the rounds. On two cores the chief and the ps have to share them with the workers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import photographs, servers, usage
from model import config as config_module
from model.cluster import Cluster
from model.launch import processes

MODULE = "benchmarks.async_efficiency"
NUM_PHOTOGRAPHS = 600
WARM_UP_STEPS = 2  # of each worker, which are not measured
MAX_OVERHEAD = 1.15  # CPU seconds an image over those of one process
MIN_SPEEDUP = 1.8  # images/s of two workers over one
DEADLINE = 1200.0  # seconds that one run may take


class Figures(NamedTuple):
    """What a run came to."""

    images_per_second: float
    cpu_per_image: float  # seconds, of all processes
    servers_cpu_per_image: float  # seconds, of the chief and the ps


def main(argv=None):
    """Runs the benchmark, or one of its processes; returns the exit code."""
    here = Cluster.from_environment()
    if here:
        servers.serve(here)
    options = parse(argv)
    if options.run is not None:
        print(json.dumps(measure(options)))
        return 0
    return usage.in_temporary_folder(MODULE, lambda folder: compare(options, folder))


def parse(argv):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description=__doc__.splitlines()[0],
        epilog=f"example: python -m {MODULE} --rounds=1 --steps=4",
    )
    add = parser.add_argument
    add("--image_size", type=int, default=149, help="pixels a side (149)")
    add("--batch_size", type=int, default=16, help="images a step (16)")
    add("--steps", type=int, default=10, help="of each worker in a run (10)")
    add("--rounds", type=int, default=3, help="the median is printed (3)")
    add("--preset", default="jft", help="recipe (jft)")
    add("--images", type=Path, help="folder of photographs (draws some)")
    add("--run", type=int, help=argparse.SUPPRESS)  # a run of so many workers; 0: alone
    add("--core", type=int, default=0, help=argparse.SUPPRESS)  # that the first worker is pinned to
    add("--data", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def compare(options, folder):
    """Prints the table."""
    shards = photographs.shard(folder, options.images, NUM_PHOTOGRAPHS, options.image_size)

    def run(num_workers, core=0):
        return [
            *(sys.executable, "-m", MODULE, f"--run={num_workers}", f"--core={core}"),
            *(f"--data={shards}", f"--preset={options.preset}", f"--steps={options.steps}"),
            *(f"--image_size={options.image_size}", f"--batch_size={options.batch_size}"),
        ]

    contestants = {
        "alone": [run(0)],
        "two alone": [run(0), run(0, core=1)],
        "1 worker": [run(1)],
        "2 workers": [run(2)],
    }
    found = {name: [] for name in contestants}
    for number in range(options.rounds):
        for name, commands in contestants.items():
            figures = together(commands)
            print(f"round {number + 1}: {name}: {figures}", file=sys.stderr, flush=True)
            found[name].append(figures)
    medians = {
        name: Figures(*(statistics.median(values) for values in zip(*rounds, strict=True)))
        for name, rounds in found.items()
    }
    print(
        f"{options.preset}, {options.image_size} pixels, batch {options.batch_size}: "
        f"medians of {options.rounds} runs of {options.steps} steps a worker"
    )
    print(f"  {'':10s} images/s  CPU s an image  of the chief and the ps")
    for name, figures in medians.items():
        print(
            f"  {name:10s} {figures.images_per_second:8.2f}  {figures.cpu_per_image:14.4f}"
            f"  {figures.servers_cpu_per_image:.4f}"
        )
    alone, twice, one, two = medians.values()
    overhead = two.cpu_per_image / alone.cpu_per_image
    print(f"CPU seconds an image, 2 workers over alone: {overhead:.3f} (at most {MAX_OVERHEAD})")
    speedup = two.images_per_second / one.images_per_second
    print(f"images/s, 2 workers over 1: {speedup:.2f} (at least {MIN_SPEEDUP})")
    bound = twice.images_per_second / alone.images_per_second
    print(f"images/s, two alone over alone: {bound:.2f}: what this machine leaves")


def together(commands):
    """Figures of what several commands do at the same time: the sum of their speeds."""
    running = [
        processes.start([*command], stdout=subprocess.PIPE, cwd=usage.ROOT) for command in commands
    ]
    try:
        outputs = [process.communicate(timeout=DEADLINE)[0] for process in running]
    except subprocess.TimeoutExpired as error:
        raise usage.BenchmarkError(f"a run was not finished after {DEADLINE:.0f} s") from error
    finally:
        processes.stop(running)
    for process in running:
        if process.returncode:
            raise usage.BenchmarkError(f"a run ended with exit code {process.returncode}")
    rates, *cpus = zip(*(json.loads(output.splitlines()[-1]) for output in outputs), strict=True)
    return Figures(sum(rates), *map(statistics.mean, cpus))


def measure(options):
    """Figures of one run: `options.run` workers, or this process alone."""
    overrides = [
        f"input.image_size={options.image_size}",
        f"input.batch_size={options.batch_size}",
        "train.steps_per_closure=1",
    ]
    config = config_module.load_preset(options.preset, overrides)
    with tempfile.TemporaryDirectory() as folder:
        if options.run == 0:
            os.sched_setaffinity(0, {options.core})
            return steady_state(config, options, [], folder)
        running = servers.start(MODULE, num_ps=1, num_workers=options.run, folder=folder)
        try:
            for core, worker in enumerate(running[1:]):
                os.sched_setaffinity(worker.pid, {core})
            return steady_state(config, options, running, folder)
        finally:
            processes.stop(running)


def steady_state(config, options, running, run_dir):
    """Figures of training, from the moment when all workers have taken some steps."""
    from model import quiet, train
    from pipeline import metadata

    here = Cluster.from_environment()
    quiet.start_tensorflow(*(here.threads() if here else (0, 1)))
    store, executor = train.prepare(
        config,
        here,
        metadata.load_vocabulary(options.data),
        metadata.load_split(options.data, "train"),
        run_dir=run_dir,
    )
    num_workers = max(1, options.run)

    def take(is_enough):
        """(images, seconds) once enough steps have been applied."""
        progress = store.progress()
        while not is_enough(progress.step):
            executor.advance(progress.step, progress.step + 1000)
            progress = store.progress()
        return progress.samples, time.monotonic()

    # What each worker does before its first step takes longer than the step.
    take(lambda step: min(work.steps for work in store.work()) >= WARM_UP_STEPS)
    first_step = store.progress().step + 1  # one that has just been counted begins the clock
    images_before, before = take(lambda step: step >= first_step)
    cpu_before = cpu_seconds(running)
    images, now = take(lambda step: step >= first_step + options.steps * num_workers)
    computing, serving = (
        (after - earlier) / (images - images_before)
        for after, earlier in zip(cpu_seconds(running), cpu_before, strict=True)
    )
    return Figures((images - images_before) / (now - before), computing + serving, serving)


def cpu_seconds(running):
    """(of what computes, of the chief and the ps) until now; `running` is a ps and its workers."""

    def spent(pids):
        times = [psutil.Process(pid).cpu_times() for pid in pids]
        return sum(time.user + time.system for time in times)

    if not running:
        return spent([os.getpid()]), 0.0
    return spent([worker.pid for worker in running[1:]]), spent([os.getpid(), running[0].pid])


if __name__ == "__main__":
    sys.exit(main())
