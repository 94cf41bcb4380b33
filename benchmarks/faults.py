"""Causes every fault of docs/fault_tolerance.md, and prints its table.

    python -m benchmarks.faults

One training cluster of two workers and one ps on this machine goes through all that can happen to a
process; a second one, whose processes live in network namespaces of their own (root on Linux),
through what can happen to a network. `tests/model/test_faults.py` runs the same faults and checks
what comes out. Seconds are of a tiny network on loopback: a restart takes what TensorFlow takes to
start.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks import (
    evaluator_faults,
    host_faults,
    membership_faults,
    network_faults,
    process_faults,
    usage,
)
from benchmarks.fault_rows import HEADER


def main(argv: list[str] | None = None) -> int:
    """Causes all faults and prints the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults",
        description=__doc__.splitlines()[0] if __doc__ else None,
    )
    parser.add_argument("--only", default="", help="only faults whose name holds this text")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(folder)
        print(HEADER, flush=True)
        training = process_faults.Training(shards, folder / "run")
        try:
            for fault, cause in process_faults.FAULTS.items():
                if options.only in fault:
                    print(cause(fault, training), flush=True)
        finally:
            training.close()
        if options.only:
            return 0
        for row in host_faults.never_proceeding(shards, folder):
            print(row, flush=True)
        print(host_faults.full_disk(shards, folder), flush=True)
        print(host_faults.missing_shard(shards, folder), flush=True)
        print(host_faults.damaged_record(shards, folder), flush=True)
        print(host_faults.ended_alone(shards, folder), flush=True)
        for row in evaluator_faults.rows(shards, folder):
            print(row, flush=True)
        for row in membership_faults.rows(shards, folder / "members"):
            print(row, flush=True)
        reason = network_faults.why_not()
        for row in [] if reason else network_faults.rows(shards, folder / "network"):
            print(row, flush=True)
        if reason:
            print(f"No network was cut: {reason}", file=sys.stderr)
    return 0


def make_shards(
    folder: Path, num_train: int = 240, num_eval: int = 60, num_shards: int = 3
) -> Path:
    """A small dataset, by the pipeline's commands."""
    scenes, shards = folder / "scenes", folder / "shards"
    log = folder / "pipeline.log"
    counts = [f"--num_train={num_train}", f"--num_eval={num_eval}"]
    usage.run([sys.executable, "-m", "pipeline.synthetic", f"--output={scenes}", *counts], log)
    for split in ("train", "eval"):
        command = [
            *("beam_runner.py", "--source=manifest", f"--labels={scenes}/{split}.csv"),
            *(f"--images={scenes}", f"--classes={scenes}/classes.tsv", f"--output={shards}"),
            *(f"--split={split}", f"--num_shards={num_shards}"),
        ]
        usage.run([sys.executable, *command], log)
    return shards


if __name__ == "__main__":
    sys.exit(main())
