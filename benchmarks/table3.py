"""Table 3 of the paper: size and training speed of Xception and Inception V3, side by side.

    python -m benchmarks.table3 [--image_size=299] [--batch_size=8] [--precision float32 bfloat16]

Both networks of this project, of keras.applications and of tf_keras take training steps in turns in
one process, and the ratio of the two stands beside the paper's 28 / 31. The paper's speeds are of
60 K80 GPUs in synchronous training; what can be compared with them is that ratio. A pair of
networks at a time is in memory.
"""

import argparse
import sys

from benchmarks import contestants
from benchmarks.contestants import NETWORKS, PRECISIONS, Contestant, Setting

PAPER = {  # table 3: trainable parameters at 1,000 classes, steps/s
    "inception_v3": (23_626_728, 31),
    "xception": (22_855_952, 28),
}
PEERS = {
    "ours": contestants.ours,
    "keras.applications": contestants.keras_applications,
    "tf_keras": contestants.tf_keras,
}


def main(argv=None):
    """Runs the benchmark; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table3",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.table3 --image_size=149 --batch_size=16 --rounds=3",
    )
    contestants.add_arguments(parser, PRECISIONS[:1])
    options = parser.parse_args(argv)
    from model import quiet

    quiet.start_tensorflow()
    for precision in options.precision:
        setting = Setting(options.image_size, options.batch_size, options.num_classes, precision)
        print_table(setting, options.rounds, options.steps)
    return 0


def print_table(setting, rounds, steps):
    """Prints a row for each network of each peer, below the paper's."""
    print(
        f"\n{setting.image_size} pixels, batch {setting.batch_size}, "
        f"{setting.num_classes:,} classes, {setting.precision}"
    )
    print(
        f"{'':20s}{'':14s}{'parameters':>12s}{'steps/s':>10s}{'images/s':>10s}{'CPU s/step':>12s}"
    )
    ratio = PAPER["xception"][1] / PAPER["inception_v3"][1]
    for network, (num_parameters, steps_per_second) in PAPER.items():
        print(f"{'paper':20s}{network:14s}{num_parameters:12,d}{steps_per_second:10.2f}")
    print(f"{'':20s}{'ratio':14s}{'':12s}{ratio:10.3f}")
    for peer, build in PEERS.items():
        pair = [Contestant(name, *build(name, setting)[1:]) for name in NETWORKS]
        sizes = {each.name: each.num_parameters for each in pair}
        rates = contestants.measure(pair, rounds, steps)
        for network in PAPER:
            rate = rates[network]
            print(
                f"{peer:20s}{network:14s}{sizes[network]:12,d}{rate.steps_per_second:10.3f}"
                f"{rate.steps_per_second * setting.batch_size:10.2f}{rate.cpu_seconds:12.2f}"
            )
        xception, inception = rates["xception"], rates["inception_v3"]
        by_wall = xception.steps_per_second / inception.steps_per_second
        by_cpu = inception.cpu_seconds / xception.cpu_seconds
        print(f"{'':20s}{'ratio':14s}{'':12s}{by_wall:10.3f}{'by CPU':>10s}{by_cpu:12.3f}")


if __name__ == "__main__":
    sys.exit(main())
