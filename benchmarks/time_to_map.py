"""How long it takes to a MAP@100: asynchronously, in one process, and by `keras.Model.fit`.

    python -m benchmarks.time_to_map --data=shards --class_weights=weights.tsv --output=times \\
        --target=0.6 --set train.samples=24000 --set input.image_size=80

Trains the same network from the same recipe on equally many images: by two workers, a ps and a
chief; in one process; and by `fit` (benchmarks.keras_fit). All checkpoints are evaluated when
everything is trained. Seconds are of training, from its first step, tracing included; those in
which `fit` writes its network down are left out. What is finished is not done again.
"""

import argparse
import json
import statistics
import sys

from benchmarks import recipes
from benchmarks.end_to_end import python, run
from eval.results import Results
from model import checkpoint, run_folder
from model.launch import processes

METRIC = "map_at_100"
TRAINERS = ("2 workers", "one process", "keras fit")


def main(argv=None):
    """Trains, evaluates and prints; returns the exit code of the command that failed, or 0."""
    options = parse(argv)
    processes.raise_interrupt_on_sigterm()
    profiles = {name: [] for name in TRAINERS}
    try:
        for seed in range(options.seeds):
            for name in TRAINERS:
                exit_code = train(options, name, seed)
                if exit_code:
                    return exit_code
        for seed in range(options.seeds):
            for name in TRAINERS:
                folder = folder_of(options, name, seed)
                evaluate = evaluate_fit if name == "keras fit" else evaluate_run
                profiles[name].append(evaluate(options, folder))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    print_table(profiles, options.target)
    return 0


def parse(argv):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_map",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.time_to_map --data=shards --output=times "
        "--target=0.6 --set train.samples=24000",
    )
    recipes.add_comparison(parser)
    parser.add_argument("--target", type=float, required=True, help="MAP@100 to be reached")
    return parser.parse_args(argv)


# ---- Training ----


def folder_of(options, name, seed):
    """Where a training lies."""
    return options.output / name.replace(" ", "_") / f"seed-{seed}"


def train(options, name, seed):
    """Trains, unless that is done; returns the exit code."""
    folder = folder_of(options, name, seed)
    if run_folder.is_completed(folder):
        return 0
    if name == "keras fit":
        fit = ["-m", "benchmarks.keras_fit", f"--output={folder}", f"--seed={seed}"]
        return run(python(*fit, *recipes.of_training(options)))
    recipe = recipes.of_training(options, f"train.seed={seed}", recipes.KEEP_ALL)
    launch = ["-m", "model.launch", "local", "--num_workers=2", "--num_ps=1", "--"]
    command = launch if name == "2 workers" else ["-m", "model.train"]
    return run(python(*command, *recipe, f"--workdir={folder}"))


# ---- Evaluating ----


def evaluate_run(options, folder):
    """[(seconds, images, MAP@100)] of the checkpoints of a run of ours, and of its end."""
    saved = checkpoint.list_checkpoints(folder)
    results = Results(folder / "eval" / options.eval_split)
    command = ["-m", "eval.evaluate", f"--workdir={folder}", "--watch"]
    if not results.shows(saved[-1].step):
        check(run(python(*command, *recipes.of_evaluation(options))))
    found = {line["step"]: line for line in results.history(results.report())}
    states = [checkpoint.read_state(point.path) for point in saved]
    return [
        (state["seconds"], state["samples"], found[state["step"]][METRIC])
        for state in states
        if state["step"] in found
    ]


def evaluate_fit(options, folder):
    """The same of what `fit` wrote down."""
    profile = []
    for path in sorted(folder.glob("point-??.json")):
        output = folder / "eval" / path.stem
        results = Results(output)
        if not results.report_path.exists():
            command = [f"--model={path.with_suffix('')}", f"--output={output}"]
            space = "--score_space=logits"
            shared = recipes.of_evaluation(options)
            check(run(python("-m", "eval.evaluate", *command, space, *shared)))
        point = json.loads(path.read_text())
        value = results.report()["metrics"][METRIC]["value"]
        profile.append((point["seconds"], point["samples"], value))
    return profile


def check(exit_code):
    """Ends the benchmark with the exit code of a command that failed."""
    if exit_code:
        raise SystemExit(exit_code)


def print_table(profiles, target):
    """Prints of each trainer when it was where, as medians over the seeds."""
    print(f"\n{'':12s}   images   seconds  MAP@100 at the end     seconds to {target}, by seed")
    for name, runs in profiles.items():
        ends = [profile[-1] for profile in runs]
        seconds, images, value = (statistics.median(each) for each in zip(*ends, strict=True))
        times = [time_to(target, profile) for profile in runs]
        by_seed = "  ".join("never" if time is None else f"{time:.0f}" for time in times)
        span = f"{min(end[2] for end in ends):.4f} to {max(end[2] for end in ends):.4f}"
        print(f"{name:12s} {images:8,.0f} {seconds:9.1f}  {value:.4f} ({span})  {by_seed}")


def time_to(target, profile):
    """Seconds until the target, on the line between two points; None if it was never reached."""
    earlier = None
    for seconds, _, value in profile:
        if value >= target:
            if earlier is None:
                return seconds
            share = (target - earlier[1]) / (value - earlier[1])
            return earlier[0] + share * (seconds - earlier[0])
        earlier = (seconds, value)
    return None


if __name__ == "__main__":
    sys.exit(main())
