"""What it costs to read shards from an object store through the cache, beside local files.

    python -m benchmarks.remote_input [--image_size=299] [--images=photos]

Reads training images, without training, in a new process each time, which goes twice over them:

    local    the shards as files
    store    through a cache that is empty: the first pass fetches every shard, the second has them

and prints medians over the rounds: images/s by the clock and CPU seconds a thousand images, the
first pass from making the dataset on, tracing included; then what fetching alone takes of the CPU,
one verified shard after the other, by a client that is connected already. The store is a server of
this host that speaks S3, in another process: its CPU is not counted, and there is no network that
anything could wait for.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import photographs, usage
from benchmarks.object_store import ObjectStore
from model.shard_cache import ShardCache
from pipeline import metadata

MODULE = "benchmarks.remote_input"
NUM_PHOTOGRAPHS = 1500
CACHE_BYTES = 16_000_000_000  # more than there is
TIMEOUT = 60.0  # seconds for a shard
SHUFFLE_BUFFER = 256  # images that are read ahead, and not counted


class Pass(NamedTuple):
    """What going over the images once took, an image."""

    wall: float  # seconds
    cpu: float  # seconds


def main(argv=None):
    """Runs the benchmark, or one of its processes; returns the exit code."""
    options = parse(argv)
    if options.data:
        print(json.dumps(read(options.data, options.cache, options.image_size)))
        return 0
    return usage.in_temporary_folder(MODULE, lambda folder: compare(options, folder))


def parse(argv):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}",
        description=__doc__.splitlines()[0],
        epilog=f"example: python -m {MODULE} --rounds=1",
    )
    add = parser.add_argument
    add("--image_size", type=int, default=299, help="pixels a side (299)")
    add("--rounds", type=int, default=3, help="the median is printed (3)")
    add("--images", type=Path, help="folder of photographs (draws some)")
    add("--data", help=argparse.SUPPRESS)  # that a process reads
    add("--cache", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def compare(options, folder):
    """Prints the table."""
    shards = photographs.shard(folder, options.images, NUM_PHOTOGRAPHS, options.image_size)
    num_bytes = sum(path.stat().st_size for path in shards.glob("images-train.tfrecord-*"))
    found = {"local": [], "store": []}
    fetching = []
    with ObjectStore(folder) as store:
        for number in range(options.rounds):
            for name, rounds in found.items():
                print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
                data = shards if name == "local" else f"s3://bucket/{shards.name}"
                command = [
                    *(sys.executable, "-m", MODULE, f"--data={data}"),
                    *(f"--cache={folder}/cache-{number}", f"--image_size={options.image_size}"),
                ]
                _, said = usage.run(command, folder / "reading.log", **store.environment)
                passes, cpu = json.loads(said)
                rounds.append([Pass(*values) for values in passes])
                if cpu is not None:
                    fetching.append(cpu / (num_bytes / 1e9))
    print(
        f"{NUM_PHOTOGRAPHS:,} images of {options.image_size} pixels, {num_bytes / 1e6:.0f} MB in 8 "
        f"shards; medians of {options.rounds}"
    )
    print(f"  {'':17s} images/s  CPU s a thousand images")
    for name, rounds in found.items():
        for which, passes in zip(("first", "second"), zip(*rounds, strict=True), strict=True):
            wall, cpu = map(statistics.median, zip(*passes, strict=True))
            print(f"  {name:5s} {which:6s} pass {1 / wall:8.0f}  {1000 * cpu:.2f}")
    print(f"fetching: {statistics.median(fetching):.1f} CPU s a gigabyte")


def read(data, cache, image_size):
    """([Pass], CPU seconds of fetching alone): goes twice over the training split of `data`.

    None instead of the latter where nothing has to be fetched.
    """
    from model import quiet

    quiet.start_tensorflow()
    from model import config as config_module
    from model import input as input_module

    overrides = [
        f"input.image_size={image_size}",
        f"input.shuffle_buffer={SHUFFLE_BUFFER}",
        f"input.cache_dir={cache}",
    ]
    config = config_module.load_preset("jft", overrides)
    split = metadata.load_split(data, "train")
    passes = []
    started, cpu_before = time.monotonic(), time.process_time()
    batches = iter(input_module.training_dataset(config, split.shard_paths, split.shard_lengths))
    for _ in range(2):
        num_images = 0
        while num_images < split.num_examples:
            images, _ = next(batches)
            num_images += len(images)
        now, cpu = time.monotonic(), time.process_time()
        passes.append(Pass((now - started) / num_images, (cpu - cpu_before) / num_images))
        started, cpu_before = now, cpu
    del batches
    return passes, fetch(split.shard_paths, f"{cache}-again") if metadata.is_remote(data) else None


def fetch(addresses, cache):
    """CPU seconds that it takes to fetch these shards into an empty cache."""
    copies = ShardCache(cache, CACHE_BYTES, TIMEOUT)
    before = time.process_time()
    for address in addresses:
        copies.local_path(address)
    return time.process_time() - before


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    os._exit(exit_code)  # TensorFlow's threads may still be reading ahead
