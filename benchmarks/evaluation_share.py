"""What an evaluation of FastEval14k's size spends besides the network's forward pass.

    python -m benchmarks.evaluation_share --output=evaluation_share

Shards photographs with labels among 17,000 classes, saves a checkpoint of Xception with 299 pixels
and random parameters, and measures seconds of the CPU, of all threads:

    the forward pass    alone, of the images of a small split, which lie in memory already
    everything else     evaluations from the shards to report.html in which finished logits stand in
                        for the forward pass: of the small split and of the whole one, so that what
                        an evaluation costs and what an image costs can be told apart
    the checkpoint      loaded, once an evaluation

The forward pass costs every image the same, and is multiplied. Nothing is subtracted from anything
that is much larger than it. An evaluation of the small split as it is, network and all, then shows
whether the parts make up the whole; by the clock it shows what reading ahead hides. Starting
TensorFlow and building the network comes once a command, and is told apart.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks import photographs, usage
from benchmarks.map100 import draw_labels
from eval.evaluate import evaluate_once
from eval.evaluation_set import EvaluationSet
from eval.evaluator import RunEvaluator
from eval.results import Results
from eval.surroundings import Surroundings
from model import checkpoint, config, quiet, run_folder
from pipeline import metadata
from pipeline.images import ImageRecipe, prepare

NUM_CLASSES = 17_000  # section 4.1
WHOLE, SMALL = "eval", "small"
_SMALL_SHARE = 0.01
_BANK = 256  # images whose logits are drawn; they stand in for all


def main() -> None:
    parser = argparse.ArgumentParser(description="What an evaluation spends besides its network.")
    parser.add_argument("--output", type=Path, required=True, help="folder that is made")
    parser.add_argument("--num_images", type=int, default=14_000)
    parser.add_argument("--batch_size", type=int, default=64)
    options = parser.parse_args()
    if not (options.output / "shards").exists():
        write_data(options.output, options.num_images)
    write_run(options.output)
    measure(options.output, options.batch_size)


def write_data(folder: Path, num_images: int) -> None:
    """Two splits of photographs whose shorter side is 299 pixels."""
    images = folder / "photographs"
    images.mkdir(parents=True)
    recipe = ImageRecipe(shorter_side=299)
    drawn = [
        prepare(photograph, recipe).image for photograph in photographs.drawn(photographs.NUM_DRAWN)
    ]
    lines = ["image_path,labels"]
    for index, labels in enumerate(draw_labels(num_images, NUM_CLASSES)):
        copy, number = divmod(index, len(drawn))
        (images / f"{index}.jpg").write_bytes(photographs.distinct(drawn[number], copy))
        lines.append(f"{index}.jpg,{'|'.join(f'class_{label:05d}' for label in labels)}")
    (images / "rows.csv").write_text("\n".join(lines) + "\n")
    classes = [f"class_{number:05d}" for number in range(NUM_CLASSES)]
    (images / "classes.tsv").write_text("\n".join(["class", *classes]) + "\n")
    usage.run(
        [
            *(sys.executable, "beam_runner.py", "--source=manifest"),
            f"--labels={images.absolute()}/rows.csv",
            f"--images={images.absolute()}",
            f"--classes={images.absolute()}/classes.tsv",
            f"--output={folder.absolute()}/shards",
            f"--splits={WHOLE}={1 - _SMALL_SHARE},{SMALL}={_SMALL_SHARE}",
            *("--shorter_side=299", "--workers=2"),
        ],
        folder / "sharding.log",
    )


def write_run(folder: Path) -> None:
    """A run of the paper's network whose only checkpoint holds its initial parameters."""
    quiet.start_tensorflow()
    from model import zoo

    recipe = config.load_preset("jft")
    vocabulary = metadata.load_vocabulary(folder / "shards")
    network = zoo.build(recipe, NUM_CLASSES)
    values = {variable.path: variable.numpy() for variable in network.variables}
    slots = {"slot": np.zeros(1, np.float32)}
    run_folder.write(folder / "run", recipe, vocabulary, np.ones(NUM_CLASSES, np.int64))
    state = {
        **{"step": 1, "samples": 32, "seconds": 1.0, "parameters": values, "ema": values},
        **{"mean_square": slots, "momentum": slots},
    }
    checkpoint.save(folder / "run", state, recipe, vocabulary)


def measure(folder: Path, batch_size: int) -> None:
    """Prints every part, and what they come to."""
    from model.predict import Predictor

    def evaluate(split: str) -> EvaluationSet:
        evaluation_set = EvaluationSet.read(str(folder / "shards"), split, None)
        evaluator = RunEvaluator(str(folder / "run"), evaluation_set, batch_size=batch_size)
        evaluate_once(evaluator, Results(folder / split), Surroundings(folder / "run"), "latest")
        return evaluation_set

    path = checkpoint.list_checkpoints(folder / "run")[-1].path
    start, predictor = seconds_of(lambda: Predictor(folder / "run"))
    load, _ = seconds_of(lambda: predictor.load(path))
    compiling, _ = seconds_of(lambda: evaluate(SMALL))  # what follows has its network ready
    whole, small_set = seconds_of(lambda: evaluate(SMALL))
    forward = forward_pass(predictor, small_set, batch_size)
    with mock.patch.object(Predictor, "_logits", drawn_logits()):
        rest_of_small, _ = seconds_of(lambda: evaluate(SMALL))
        rest, whole_set = seconds_of(lambda: evaluate(WHOLE))
    reading, _ = seconds_of(lambda: [None for _ in batches(predictor, whole_set, batch_size)])

    num_small, num_images = small_set.split.num_examples, whole_set.split.num_examples
    an_image = (rest[0] - rest_of_small[0]) / (num_images - num_small)
    network = forward[0] / num_small
    total = rest[0] + load[0] + network * num_images
    print(f"once a command: building {start[0]:.1f} s, compiling {compiling[0] - whole[0]:.1f} s")
    print(f"the forward pass: {1e3 * network:.1f} ms an image, of {num_small}")
    print(
        f"everything else: {1e3 * an_image:.2f} ms an image, of it reading and decoding "
        f"{1e3 * reading[0] / num_images:.2f} ms; {rest_of_small[0] - an_image * num_small:.2f} s "
        f"an evaluation, and {load[0]:.2f} s for loading the checkpoint"
    )
    print(
        f"{num_images:,} images: {rest[0] + load[0]:.1f} s besides the forward pass, of "
        f"{total:,.0f} s: {(rest[0] + load[0]) / total:.2%}"
    )
    print(
        f"{num_small} images as they are: {whole[0]:.1f} s, the parts come to "
        f"{forward[0] + rest_of_small[0]:.1f} s; by the clock {whole[1]:.1f} s, the forward pass "
        f"alone {forward[1]:.1f} s"
    )


def forward_pass(predictor, evaluation_set, batch_size) -> tuple[float, float]:
    """Seconds of the CPU and of the clock for the network alone."""
    images = [images.numpy() for _, images in batches(predictor, evaluation_set, batch_size)]
    predictor._logits(images[0], batch_size)  # compiles
    return seconds_of(lambda: [predictor._logits(batch, batch_size) for batch in images])[0]


def batches(predictor, evaluation_set, batch_size):
    from model.input import evaluation_dataset

    paths = evaluation_set.split.shard_paths
    return evaluation_dataset(predictor.config.input, paths, batch_size)


def drawn_logits() -> Callable[..., np.ndarray]:
    """A `Predictor._logits` that takes no time: runs of rows out of a few that are drawn once."""
    bank = np.random.default_rng(0).standard_normal((2 * _BANK, NUM_CLASSES), np.float32)
    starts = iter(np.random.default_rng(1).integers(0, _BANK, 1_000_000).tolist())

    def logits(predictor, images, batch_size):
        start = next(starts)
        return bank[start : start + len(images)]

    return logits


def seconds_of(function: Callable[[], object]) -> tuple[tuple[float, float], object]:
    """((seconds of the CPU, seconds of the clock), what it gave)."""
    cpu, clock = time.process_time(), time.perf_counter()
    given = function()
    return (time.process_time() - cpu, time.perf_counter() - clock), given


if __name__ == "__main__":
    main()
