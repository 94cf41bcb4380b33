"""Asynchronous training at the paper's size on one machine: does it run, and what does it move?

    python -m benchmarks.full_size --output=full_size

Xception at 299 pixels with 17,000 classes (section 4.1) takes steps on 2 ps and 2 workers. Prints
the placement, the step time, and the bytes a step that went through the loopback interface (all of
its traffic; nothing else should use it meanwhile) beside those that the store announces.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.end_to_end import python, run
from model.launch import processes

NUM_CLASSES = 17_000  # section 4.1
LABELS_PER_IMAGE = 36  # section 4.1: 36.5 in FastEval14k


def main(argv=None):
    """Runs the benchmark; returns the exit code of the command that failed, or 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.full_size",
        description="Take asynchronous steps of Xception, 299 pixels, 17,000 classes.",
        epilog="example: python -m benchmarks.full_size --output=full_size --steps=16",
    )
    parser.add_argument("--output", required=True, help="folder for data and run")
    parser.add_argument("--steps", type=int, default=16, help="steps in all (default: 16)")
    parser.add_argument("--batch_size", type=int, default=4, help="images a step (default: 4)")
    options = parser.parse_args(argv)
    output = Path(options.output)
    return make_data(output) or measure(output, options.steps, options.batch_size)


def make_data(output, num_images=64):
    """Shards of noise images of 299 pixels, with 36 random labels each out of 17,000."""
    random = np.random.default_rng(0)
    (output / "images").mkdir(parents=True, exist_ok=True)
    classes = [f"class_{i:05d}" for i in range(NUM_CLASSES)]
    (output / "classes.tsv").write_text("\n".join(["class", *classes]) + "\n")
    rows = ["image_path,labels"]
    for i in range(num_images):
        pixels = random.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).resize((299, 299)).save(output / "images" / f"{i}.jpg")
        labels = random.choice(classes, LABELS_PER_IMAGE, replace=False)
        rows.append(f"{i}.jpg,{'|'.join(labels)}")
    (output / "train.csv").write_text("\n".join(rows) + "\n")
    return run(
        python(
            "beam_runner.py",
            "--source=manifest",
            f"--labels={output}/train.csv",
            f"--images={output}/images",
            f"--output={output}/shards",
            "--split=train",
            f"--classes={output}/classes.tsv",
            "--num_shards=4",
        )
    )


def measure(output, steps, batch_size):
    """Trains from the start for some steps, and prints what the chief and the interface say."""
    shutil.rmtree(output / "run", ignore_errors=True)
    command = python(
        *("-m", "model.launch", "local", "--num_workers=2", "--num_ps=2", "--"),
        *("--preset=jft", f"--data={output}/shards", f"--workdir={output}/run"),
        *("--set", f"input.batch_size={batch_size}"),
        *("--set", "input.shuffle_buffer=16"),
        *("--set", f"train.samples={steps * batch_size}"),
        *("--set", "train.steps_per_closure=1"),
        *("--set", "train.log_every=1"),
    )
    print("$ python", *command[1:], file=sys.stderr)
    launcher = processes.start(command, stderr=subprocess.PIPE, text=True)
    traffic = []  # (seconds, bytes on loopback, line of the chief)

    def read():
        for line in launcher.stderr:
            print("  " + line, end="", file=sys.stderr, flush=True)
            traffic.append((time.monotonic(), loopback_bytes(), line))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        exit_code = launcher.wait()
        reader.join()
    finally:
        processes.stop([launcher])
    if exit_code:
        return exit_code

    print("placement and announced traffic:")
    for _, _, line in traffic:
        if "MB" in line or "largest over smallest" in line:
            print("  " + line.strip())
    report_measured(output / "run" / "metrics.jsonl", traffic)
    return 0


def report_measured(metrics_path, traffic):
    """Prints seconds and bytes a step between the first and the last progress line."""
    metrics = [json.loads(line) for line in metrics_path.read_text().splitlines()]
    lines = [entry for entry in traffic if entry[2].startswith("step ")]
    steps = metrics[-1]["step"] - metrics[0]["step"]
    (first_time, first_bytes, _), (last_time, last_bytes, _) = lines[0], lines[-1]
    print(f"measured over {steps} steps:")
    print(f"  {(last_bytes - first_bytes) / steps / 1e6:.1f} MB a step on the loopback interface")
    print(f"  {(last_time - first_time) / steps:.2f} s a step, both workers together")
    print(f"  loss {metrics[0]['train/loss']:.1f} -> {metrics[-1]['train/loss']:.1f}")


def loopback_bytes():
    """Bytes that the loopback interface has received so far (Linux)."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[0])
    raise RuntimeError("/proc/net/dev lists no interface lo")


if __name__ == "__main__":
    sys.exit(main())
