"""What benchmarks have in common that train by a recipe, from several seeds, and evaluate.

The commands of the trainer and the evaluator take what `of_training` and `of_evaluation` give.
"""

import argparse
from pathlib import Path

KEEP_ALL = "train.keep_checkpoints=1000000"  # each is a point of the profile


def add_recipe(parser):
    """Adds what is trained on, and how."""
    add = parser.add_argument
    add("--data", required=True, help="folder that beam_runner.py wrote")
    add("--split", default="train", help="split to train on (train)")
    add("--preset", default="demo", help="recipe (demo)")
    add(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change a field of the recipe, for all that is trained",
    )


def add_comparison(parser):
    """Adds a recipe, what the trainings are evaluated on, how many there are, and where they go."""
    add_recipe(parser)
    add = parser.add_argument
    add("--eval_split", default="eval", help="split to evaluate on (eval)")
    add("--class_weights", help="TSV of class and weight (all classes weigh the same)")
    add("--output", required=True, type=Path, help="folder for the runs and what comes of them")
    add("--seeds", type=int, default=3, help="trainings of each (3)")


def of_training(options: argparse.Namespace, *more: str) -> list[str]:
    """Arguments of a training by the recipe; `more` of it is changed after the user's changes."""
    return [
        *(f"--preset={options.preset}", f"--data={options.data}", f"--split={options.split}"),
        *(f"--set={override}" for override in (*options.overrides, *more)),
    ]


def of_evaluation(options: argparse.Namespace) -> list[str]:
    """Arguments of an evaluation of what was trained."""
    weights = [f"--class_weights={options.class_weights}"] if options.class_weights else []
    return [f"--data={options.data}", f"--split={options.eval_split}", *weights]
