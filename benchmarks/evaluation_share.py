"""What an evaluation spends besides the network's forward pass, on a checkpoint of any run.

    python -m benchmarks.evaluation_share --workdir=RUN --data=OUT --split=eval

Seconds of the CPU, of all threads: a whole evaluation, from shards to the report's values, and the
forward pass alone over the same images, which then lie in memory. The rest is reading, decoding and
cropping the images, and all metrics. What comes before the first batch, building and compiling the
network, is done by an evaluation that is not counted.
"""

import argparse
import time
from collections.abc import Callable

from eval.evaluation_set import EvaluationSet
from eval.evaluator import RunEvaluator
from model import checkpoint, run_folder


def main() -> None:
    parser = argparse.ArgumentParser(description="What an evaluation spends besides its network.")
    parser.add_argument("--workdir", required=True, help="folder of a training run")
    parser.add_argument("--data", required=True, help="folder that beam_runner.py wrote")
    parser.add_argument("--split", default="eval")
    parser.add_argument("--batch_size", type=int, default=16)
    options = parser.parse_args()
    evaluation_set = EvaluationSet.read(options.data, options.split, None)
    evaluator = RunEvaluator(options.workdir, evaluation_set, batch_size=options.batch_size)
    chosen = checkpoint.list_checkpoints(options.workdir)[-1]
    evaluator.evaluate(chosen)
    whole = cpu_seconds(lambda: evaluator.evaluate(chosen))
    forward = forward_pass(options.workdir, evaluation_set, options.batch_size)
    print(
        f"{evaluation_set.split.num_examples:,} images, {len(evaluation_set.vocabulary):,} "
        f"classes: {whole:.2f} s, of it the forward pass {forward:.2f} s; "
        f"the rest {1 - forward / whole:.1%}"
    )


def forward_pass(workdir: str, evaluation_set: EvaluationSet, batch_size: int) -> float:
    """Seconds for the network alone, of the images in full batches and what is left."""
    import tensorflow as tf

    from model import zoo
    from model.input import evaluation_dataset

    config = run_folder.read_config(workdir)
    network = zoo.build(config, len(evaluation_set.vocabulary))
    forward = tf.function(lambda images: network(images, training=False))
    dataset = evaluation_dataset(config.input, evaluation_set.split.shard_paths, batch_size)
    batches = [images for _, images in dataset]
    forward(batches[0])  # compiles
    return cpu_seconds(lambda: [forward(images).numpy() for images in batches])


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
