"""The comparisons of the paper's evaluation, retrained under one budget: figures 6 to 10, table 2.

    python -m benchmarks.ablation --data=shards --output=ablation --preset=demo --seeds=3 \
        --class_weights=weights.tsv --set train.samples=20000

Trains every variant from as many seeds as asked for, all with the same recipe and the same number
of images, evaluates all their checkpoints, and writes a picture of each comparison (the training
profiles against steps and against images: mean and range over the seeds), `report.html` with all
of them, and `results.json`. Prints the form of table 2. What is finished is not done again, so that
more seeds can be added later.

Two intervals of a difference stand side by side, since they answer two questions. Over the seeds:
whether training again would give the same answer (Student's t over the differences of runs of the
same seed). Over the images: whether another evaluation set would (infinitesimal jackknife, paired,
on the mean of the seeds).
"""

import argparse
import dataclasses
import sys
from typing import NamedTuple

import numpy as np
import scipy.stats

from benchmarks import ablation_page, recipes
from benchmarks.end_to_end import python, run
from benchmarks.usage import BenchmarkError
from eval import intervals
from eval.influence import Influence
from eval.results import Results
from model import config as config_module
from model import run_folder
from model.launch import processes

FULLY_CONNECTED = 4096  # units, of figures 7 and 8
METRIC = "map_at_100"


class Variant(NamedTuple):
    """A network of the paper's evaluation."""

    title: str
    overrides: tuple[str, ...]


# {units} stands for --fully_connected.
VARIANTS = {
    "xception": Variant("Xception", ()),
    "inception_v3": Variant("Inception V3", ("network.name=inception_v3",)),
    "xception_fc": Variant("Xception with FC layers", ("network.fully_connected={units}",)),
    "inception_v3_fc": Variant(
        "Inception V3 with FC layers",
        ("network.name=inception_v3", "network.fully_connected={units}"),
    ),
    "no_residual": Variant("Xception, no residual connections", ("network.residual=false",)),
    "relu": Variant("Xception, intermediate ReLU", ("network.intermediate_activation=relu",)),
    "elu": Variant("Xception, intermediate ELU", ("network.intermediate_activation=elu",)),
    "vgg_separable": Variant("VGG-style, separable", ("network.name=vgg_separable",)),
}


class Comparison(NamedTuple):
    """A figure of the paper."""

    key: str
    title: str
    variants: tuple[str, ...]


COMPARISONS = (
    Comparison(
        "figures_6_and_7",
        "Xception and Inception V3, no fully-connected layers (figures 6 and 7)",
        ("xception", "inception_v3"),
    ),
    Comparison(
        "figure_8",
        "Xception and Inception V3, with fully-connected layers (figure 8)",
        ("xception_fc", "inception_v3_fc"),
    ),
    Comparison(
        "figure_9", "With and without residual connections (figure 9)", ("xception", "no_residual")
    ),
    Comparison(
        "figure_10",
        "Between the depthwise and the pointwise operations (figure 10)",
        ("xception", "relu", "elu"),
    ),
    Comparison(
        "section_4_6",
        "A VGG-style stack of separable convolutions (section 4.6)",
        ("xception", "inception_v3", "vgg_separable"),
    ),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of one training."""

    history: list[dict]  # a line for each checkpoint, in order of steps
    image_ids: tuple[str, ...]
    influence: np.ndarray  # of each image on the last checkpoint's metric

    @property
    def final(self):
        """The metric of the last checkpoint."""
        return self.history[-1][METRIC]


def main(argv=None):
    """Trains, evaluates and compares; returns the exit code of the command that failed, or 0."""
    options = parse(argv)
    processes.raise_interrupt_on_sigterm()
    try:
        # A seed after the other, so that an interrupted benchmark has compared something.
        for seed in range(options.seeds):
            for name in VARIANTS:
                exit_code = train(options, name, seed) or evaluate(options, name, seed)
                if exit_code:
                    return exit_code
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    results = {
        name: [read_run(options, name, seed) for seed in range(options.seeds)] for name in VARIANTS
    }
    tables = {comparison.key: differences(comparison, results) for comparison in COMPARISONS}
    print_tables(results, tables)
    ablation_page.write(options.output, VARIANTS, COMPARISONS, results, tables, METRIC)
    print(f"\nOpen {options.output / 'report.html'}")
    return 0


def parse(argv):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.ablation --data=shards --output=ablation "
        "--class_weights=weights.tsv --set train.samples=20000",
    )
    recipes.add_comparison(parser)
    parser.add_argument(
        "--fully_connected",
        type=int,
        default=FULLY_CONNECTED,
        metavar="UNITS",
        help=f"of each of the two fully-connected layers ({FULLY_CONNECTED})",
    )
    options = parser.parse_args(argv)
    if options.seeds < 2:
        parser.error(f"--seeds must be at least 2, to tell how much runs differ: {options.seeds}")
    return options


# ---- Training and evaluating ----


def run_dir(options, name, seed):
    """The folder of a run."""
    return options.output / "runs" / name / f"seed-{seed}"


def train(options, name, seed):
    """Trains a variant, unless that is done; returns the exit code."""
    folder = run_dir(options, name, seed)
    if run_folder.is_completed(folder):
        return 0
    overrides = [*variant_overrides(options, name), f"train.seed={seed}", recipes.KEEP_ALL]
    recipe = recipes.of_training(options, *overrides)
    return run(python("-m", "model.train", *recipe, f"--workdir={folder}"))


def variant_overrides(options, name):
    """What makes the variant of the recipe; options that its network does not have are reset."""
    overrides = [text.format(units=options.fully_connected) for text in VARIANTS[name].overrides]
    network = dict(text.split("=") for text in overrides).get("network.name")
    if network is None:
        return overrides
    known = ("name", *config_module.NETWORK_OPTIONS[network])
    return overrides + [
        f"network.{field.name}={str(field.default).lower()}"
        for field in dataclasses.fields(config_module.NetworkConfig)
        if field.name not in known
    ]


def evaluate(options, name, seed):
    """Evaluates the checkpoints of a run that are not yet; returns the exit code."""
    folder = run_dir(options, name, seed)
    if (folder / "evaluated").exists():
        return 0
    command = ["-m", "eval.evaluate", f"--workdir={folder}", "--watch"]
    exit_code = run(python(*command, *recipes.of_evaluation(options)))
    if exit_code == 0:
        (folder / "evaluated").touch()
    return exit_code


def read_run(options, name, seed):
    """The Run of a variant and seed."""
    results = Results(run_dir(options, name, seed) / "eval" / options.eval_split)
    history = results.history(results.report())
    influence = Influence.read(results.influence_path(history[-1]["step"]))
    return Run(history, influence.image_ids, influence.weighted)


# ---- Comparing ----


class Difference(NamedTuple):
    """A variant against the first of its comparison, over runs of the same seeds."""

    variant: str
    mean: float
    relative: float  # to the first one's mean
    over_seeds: tuple[float, float]  # 95% intervals
    over_images: tuple[float, float]


def differences(comparison, results):
    """[Difference] of all variants but the first."""
    first, *others = comparison.variants
    return [difference(results[first], results[other], other) for other in others]


def difference(base, runs, variant):
    """The Difference of two lists of Runs, which go by the same seeds."""
    by_seed = [one.final - other.final for one, other in zip(runs, base, strict=True)]
    mean = float(np.mean(by_seed))
    error = scipy.stats.sem(by_seed)
    over_seeds = scipy.stats.t.interval(0.95, len(by_seed) - 1, loc=mean, scale=error)
    if any(one.image_ids != base[0].image_ids for one in [*runs, *base]):
        raise BenchmarkError(f"the runs of {variant} were evaluated on other images")
    pulls = [one.influence - other.influence for one, other in zip(runs, base, strict=True)]
    over_images = intervals.interval(mean, intervals.standard_error(np.mean(pulls, axis=0)))
    relative = mean / float(np.mean([other.final for other in base]))
    return Difference(variant, mean, relative, tuple(map(float, over_seeds)), over_images)


def print_tables(results, tables):
    """Prints the runs of each variant, and each comparison's differences."""
    print(f"\n{'':38s}{'MAP@100':>9s}   by seed")
    for name, runs in results.items():
        finals = [run.final for run in runs]
        by_seed = "  ".join(f"{final:.4f}" for final in finals)
        print(f"{VARIANTS[name].title:38s}{np.mean(finals):9.4f}   {by_seed}")
    for comparison in COMPARISONS:
        print(f"\n{comparison.title}")
        print(f"  {'against ' + VARIANTS[comparison.variants[0]].title:36s}{'difference':>11s}")
        for row in tables[comparison.key]:
            print(
                f"  {VARIANTS[row.variant].title:36s}{row.mean:+11.4f} ({row.relative:+.1%})   95% "
                f"over seeds {_range(row.over_seeds)}, over images {_range(row.over_images)}"
            )


def _range(interval):
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}"


if __name__ == "__main__":
    sys.exit(main())
