"""How long it takes to a MAP@100: asynchronously, in one process, and by `keras.Model.fit`.

    python -m benchmarks.time_to_map --data=shards --class_weights=weights.tsv --output=times \\
        --target=0.6 --set train.samples=24000 --set input.image_size=80

Trains the same network from the same recipe on equally many images: by two workers, a ps and a
chief; in one process; and by `fit`, which reads our input, minimizes our loss and follows our
learning rate with Keras's own RMSprop and averages. All checkpoints are evaluated when everything
is trained. Seconds are of training, from its first step, tracing included; those in which `fit`
writes its network down are left out. What is finished is not done again.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from benchmarks.end_to_end import python, run
from eval.results import Results
from model import checkpoint, run_folder
from model.launch import processes

METRIC = "map_at_100"
POINTS = 10  # of each training that are evaluated
ALL = 1_000_000  # checkpoints to keep
TRAINERS = ("2 workers", "one process", "keras fit")


def main(argv=None):
    """Trains, evaluates and prints; returns the exit code of the command that failed, or 0."""
    options = parse(argv)
    if options.fit:
        fit(options)
        return 0
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
    add = parser.add_argument
    add("--data", required=True, help="folder that beam_runner.py wrote")
    add("--split", default="train", help="split to train on (train)")
    add("--eval_split", default="eval", help="split to evaluate on (eval)")
    add("--class_weights", help="TSV of class and weight (all classes weigh the same)")
    add("--output", required=True, type=Path, help="folder for the runs")
    add("--preset", default="demo", help="recipe (demo)")
    add("--seeds", type=int, default=3, help="trainings of each (3)")
    add("--target", type=float, required=True, help="MAP@100 to be reached")
    add("--fit", type=Path, help=argparse.SUPPRESS)  # the folder that `fit` writes into
    add("--seed", type=int, help=argparse.SUPPRESS)
    add(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change a field of the recipe",
    )
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
    recipe = [
        *(f"--preset={options.preset}", f"--data={options.data}", f"--split={options.split}"),
        *(f"--set={override}" for override in options.overrides),
    ]
    ours = [
        *(*recipe, f"--workdir={folder}", f"--set=train.seed={seed}"),
        f"--set=train.keep_checkpoints={ALL}",
    ]
    if name == "2 workers":
        launch = ["-m", "model.launch", "local", "--num_workers=2", "--num_ps=1", "--"]
        return run(python(*launch, *ours))
    if name == "one process":
        return run(python("-m", "model.train", *ours))
    unused = ("--target=0", f"--output={options.output}")
    fit = ["-m", "benchmarks.time_to_map", f"--fit={folder}", f"--seed={seed}"]
    return run(python(*fit, *recipe, *unused))


def fit(options):
    """Trains by `keras.Model.fit` and exports the averaged network at each point."""
    from model import config as config_module
    from model import quiet

    quiet.start_tensorflow()
    import keras
    import tensorflow as tf

    from model import heads, losses, optimizers, zoo
    from model.input import forget_seed, training_dataset
    from pipeline import metadata, schema

    config = config_module.load_preset(options.preset, options.overrides)
    split = metadata.load_split(options.data, options.split)
    num_classes = len(metadata.load_vocabulary(options.data))
    keras.utils.set_random_seed(options.seed)
    bias = heads.prior_bias(split.class_counts, split.num_examples)
    network = zoo.build(config, num_classes, bias=bias, dtype=config.train.compute_dtype)
    batch_size = config.input.batch_size

    class Rate(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            step = tf.cast(step, tf.int64)
            return optimizers.learning_rate(config, step, step * batch_size)

    def loss(labels, logits):
        labels = tf.cast(labels, tf.int64)  # Keras has made floats of them
        return losses.compute(config.loss, logits, {schema.LABELS: labels})

    class Export(keras.callbacks.Callback):
        """Writes the network down at the end of an epoch, and what training took until then."""

        seconds = 0.0

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.monotonic()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds += time.monotonic() - self.started
            path = options.fit / f"point-{epoch:02d}"
            self.model.export(path, verbose=False)
            samples = (epoch + 1) * steps * batch_size
            point = {"seconds": self.seconds, "samples": samples}
            path.with_suffix(".json").write_text(json.dumps(point))

    settings = config.optimizer
    network.compile(
        optimizer=keras.optimizers.RMSprop(
            Rate(), rho=settings.rho, momentum=settings.momentum, epsilon=settings.epsilon,
            weight_decay=settings.weight_decay, use_ema=True, ema_momentum=config.train.ema_decay,
        ),
        loss=loss,
    )  # fmt: skip
    forget_seed()
    dataset = training_dataset(config, split.shard_paths)
    dataset = dataset.map(lambda images, targets: (images, targets[schema.LABELS]))
    steps = -(-config.train.samples // batch_size // POINTS)
    export = Export()
    # The averages stand in the network from the end of an epoch to the start of the next one.
    averages = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    network.fit(
        dataset,
        epochs=POINTS,
        steps_per_epoch=steps,
        callbacks=[averages, export],
        shuffle=False,
        verbose=2,
    )
    samples = POINTS * steps * batch_size
    run_folder.mark_completed(
        options.fit, {"step": POINTS * steps, "samples": samples, "seconds": export.seconds}
    )


# ---- Evaluating ----


def evaluation_options(options):
    """What all evaluations have in common."""
    weights = [f"--class_weights={options.class_weights}"] if options.class_weights else []
    return [f"--data={options.data}", f"--split={options.eval_split}", *weights]


def evaluate_run(options, folder):
    """[(seconds, images, MAP@100)] of the checkpoints of a run of ours, and of its end."""
    saved = checkpoint.list_checkpoints(folder)
    results = Results(folder / "eval" / options.eval_split)
    command = ["-m", "eval.evaluate", f"--workdir={folder}", "--watch"]
    if not results.shows(saved[-1].step):
        check(run(python(*command, *evaluation_options(options))))
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
            shared = evaluation_options(options)
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
