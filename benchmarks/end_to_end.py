"""The whole road through the three public commands: images in, MAP@100 and a page out.

    python -m benchmarks.end_to_end demo --output=demo

    git clone https://github.com/marcusklasson/GroceryStoreDataset
    python -m benchmarks.end_to_end grocery_store --images=GroceryStoreDataset/dataset \\
        --output=grocery

Each command is printed before it runs, to be pasted. What is finished is not done again.
"""

import argparse
import csv
import json
import shlex
import sys
import time
from pathlib import Path

from model.launch import processes


def main(argv=None):
    """Runs a road; returns the exit code of the first command that failed, or 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.end_to_end",
        description="Shard, train asynchronously, evaluate while training, and report.",
        epilog="example: python -m benchmarks.end_to_end demo --output=demo",
    )
    roads = parser.add_subparsers(dest="road", required=True, metavar="ROAD")
    demo = roads.add_parser("demo", help="rendered scenes that it draws itself")
    grocery = roads.add_parser("grocery_store", help="photographs of GroceryStoreDataset")
    grocery.add_argument(
        "--images", required=True, help="its folder `dataset`: classes.csv, train/ and test/"
    )
    for road in (demo, grocery):
        road.add_argument("--output", required=True, help="folder for everything that is made")
        road.add_argument(
            "--num_workers",
            type=int,
            default=2,
            help="training workers; 0 trains in one process without a cluster (default: 2)",
        )
        road.add_argument(
            "--set",
            dest="overrides",
            action="append",
            default=[],
            metavar="SECTION.FIELD=VALUE",
            help="change a field of the training recipe",
        )
    options = parser.parse_args(argv)
    processes.raise_interrupt_on_sigterm()
    started = time.monotonic()
    try:
        exit_code = {"demo": run_demo, "grocery_store": run_grocery_store}[options.road](options)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    if exit_code == 0:
        print(f"All of it took {time.monotonic() - started:.0f} s.")
    return exit_code


def run_demo(options):
    """Scenes of coloured shapes with a long tail of classes, drawn by the pipeline."""
    output = Path(options.output)
    scenes = output / "scenes"
    return (
        run(python("-m", "pipeline.synthetic", f"--output={scenes}"))
        or shard(scenes, scenes, output / "shards", scenes / "classes.tsv")
        or train_and_evaluate(options, output, scenes / "class_weights.tsv")
    )


def run_grocery_store(options):
    """Photographs: its train split to train, its test split to evaluate."""
    output = Path(options.output)
    manifests = output / "manifests"
    write_grocery_manifests(Path(options.images), manifests)
    weights = output / "class_weights.tsv"
    return (
        shard(
            manifests,
            Path(options.images),
            output / "shards",
            manifests / "classes.tsv",
            "--shorter_side=96",
        )
        or run(
            python(
                "-m",
                "eval.class_weights",
                f"--counts={output}/shards/train.class_counts.tsv",
                f"--output={weights}",
            )
        )
        or train_and_evaluate(options, output, weights)
    )


def write_grocery_manifests(source, manifests):
    """Lists the images of train/ and test/ in train.csv and eval.csv, and their classes.

    Labels of an image are its class, the coarse class that this belongs to, and the uppermost
    folder: train/Fruit/Apple/Pink-Lady/Pink-Lady_001.jpg is Pink-Lady, Apple and Fruit.
    """
    manifests.mkdir(parents=True, exist_ok=True)
    with open(source / "classes.csv", newline="") as file:
        rows = csv.DictReader(file)
        coarse = {row["Class Name (str)"]: row["Coarse Class Name (str)"] for row in rows}
    classes = set()
    for name, split in (("train", "train"), ("eval", "test")):
        with open(manifests / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_path", "labels"])
            for path in sorted((source / split).rglob("*.jpg")):
                image = path.relative_to(source)
                found = {image.parent.name, coarse[image.parent.name], image.parts[1]}
                writer.writerow([image, "|".join(sorted(found))])
                classes |= found
    (manifests / "classes.tsv").write_text("\n".join(["class", *sorted(classes)]) + "\n")


def shard(manifests, images, output, classes, *more):
    """Runs beam_runner.py for the evaluation split, which is kept out of training, and for that."""
    for split, num_shards in (("eval", 4), ("train", 16)):
        exit_code = run(
            python(
                "beam_runner.py",
                "--source=manifest",
                f"--labels={manifests}/{split}.csv",
                f"--images={images}",
                f"--output={output}",
                f"--split={split}",
                f"--classes={classes}",
                f"--num_shards={num_shards}",
                *more,
            )
        )
        if exit_code:
            return exit_code
    return 0


def train_and_evaluate(options, output, weights):
    """Trains, with the evaluator watching beside it; prints the result's table and page."""
    data, run_dir = output / "shards", output / "run"
    training = ["--preset=demo", f"--data={data}", f"--workdir={run_dir}"]
    training += [part for override in options.overrides for part in ("--set", override)]
    if options.num_workers:
        workers = f"--num_workers={options.num_workers}"
        train = python("-m", "model.launch", "local", workers, "--num_ps=1", "--", *training)
    else:
        train = python("-m", "model.train", *training)
    evaluate = python(
        "-m",
        "eval.evaluate",
        f"--workdir={run_dir}",
        f"--data={data}",
        "--split=eval",
        f"--class_weights={weights}",
    )
    exit_code = run_together(train, [*evaluate, "--watch"])
    if exit_code:
        return exit_code
    return summarize(run_dir)


def summarize(run_dir):
    """Prints where to look."""
    completed = json.loads((run_dir / "completed.json").read_text())
    print(f"\nTrained in {completed['seconds']:.0f} s on {completed['samples']:,} images.")
    print(f"Open {run_dir / 'eval' / 'eval' / 'report.html'}")
    return 0


def python(*arguments):
    """The command line of this Python with arguments."""
    return [sys.executable, *map(str, arguments)]


def run(command):
    """Prints and runs a command; returns its exit code."""
    return wait_for_all([start(command)])


def run_together(*commands):
    """Prints and runs commands side by side; the first failure ends the others."""
    return wait_for_all([start(command) for command in commands])


def start(command):
    """Prints a command as a person would type it, and starts it."""
    shown = ["python", *command[1:]]
    print(f"\n$ {shlex.join(shown)}", file=sys.stderr, flush=True)
    return processes.start(command)


def wait_for_all(running):
    """Waits until all have ended; returns the first exit code that is not 0, or 0."""
    try:
        while True:
            exit_codes = [process.poll() for process in running]
            failed = [code for code in exit_codes if code]
            if failed or None not in exit_codes:
                return failed[0] if failed else 0
            time.sleep(0.1)
    finally:
        processes.stop(running)


if __name__ == "__main__":
    sys.exit(main())
