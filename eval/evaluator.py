"""Evaluates the checkpoints of one run on an evaluation set.

    evaluator = Evaluator("runs/1", EvaluationSet.read("shards", "eval", "weights.tsv"))
    report, examples = evaluator.evaluate(checkpoint.list_checkpoints("runs/1")[-1])

What can be wrong with the inputs is found before TensorFlow is imported, at the first checkpoint.
"""

import importlib.metadata
import itertools
import math
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eval import average_precision as ap
from eval import metrics
from eval.evaluation_set import EvaluationError, EvaluationSet
from eval.examples import Gallery
from eval.progress import Progress
from model import checkpoint as checkpoints
from model import run_folder
from model.checkpoint import Checkpoint, CheckpointError
from pipeline import labels

FORMAT_VERSION = 1
_VERSIONS_OF = ("xception-at-scale", "tensorflow", "keras", "numpy")


class Evaluator:
    """Evaluates one checkpoint after another; builds the network once, at the first.

    Args:
        workdir: folder of the training run.
        evaluation_set: what to evaluate on.
        parameters: "ema" for the Polyak averages, "raw" for the parameters as training left them.
        batch_size: how many images are scored together.

    Raises ConfigError or LabelError where the run's folder is incomplete, EvaluationError where it
    is of other classes than the evaluation set.
    """

    def __init__(
        self,
        workdir: str,
        evaluation_set: EvaluationSet,
        parameters: str = "ema",
        batch_size: int = 64,
    ):
        self.workdir, self.evaluation_set = workdir, evaluation_set
        self.parameters, self._batch_size = parameters, batch_size
        run_folder.read_config(workdir)  # says in words what is no run's folder
        _check_same_classes(workdir, evaluation_set)
        self._training_counts = labels.read_class_counts(
            Path(workdir) / "class_counts.tsv", evaluation_set.vocabulary
        )
        self._predictor: Any = None

    def conditions(self) -> dict[str, Any]:
        """What must agree for two evaluations to be points of one training profile."""
        return self.evaluation_set.conditions(self.parameters)

    def hash_of(self, checkpoint: Checkpoint) -> str:
        """sha256 of the parameters that are evaluated; raises CheckpointError."""
        file = {"ema": "ema", "raw": "parameters"}[self.parameters]
        return checkpoints.read_state(checkpoint.path)["sha256"][file]

    def evaluate(self, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any]]:
        """The report and the example images of a checkpoint, as JSON values.

        Raises CheckpointError (it is gone, damaged or foreign, or its scores are not numbers) or
        EvaluationError (the shards cannot be read, or do not hold what the metadata says).
        """
        started = time.monotonic()
        sha256 = self.hash_of(checkpoint)
        self._load(checkpoint)
        accumulator = ap.Accumulator(
            len(self.evaluation_set.vocabulary), self.evaluation_set.weights
        )
        gallery = Gallery()
        split = self.evaluation_set.split
        with Progress(f"step {checkpoint.step:,}", split.num_examples) as progress:
            for batch in self._batches():
                image_ap = self._update(accumulator, batch, checkpoint)
                gallery.offer(batch.image_ids, batch.images, batch.labels, batch.logits, image_ap)
                progress.advance(len(batch.image_ids))
        result = accumulator.result()
        if result.num_images != split.num_examples:
            raise EvaluationError(
                f"The shards of split {split.name!r} hold {result.num_images:,} images, and its "
                f"metadata says {split.num_examples:,}. Write the split again."
            )
        report = {
            **self._report(checkpoint, result),
            "checkpoint_sha256": sha256,
            "seconds": round(time.monotonic() - started, 2),
        }
        classes = self.evaluation_set.vocabulary.classes
        return report, {"step": checkpoint.step, **gallery.to_json(classes)}

    def _load(self, checkpoint: Checkpoint) -> None:
        if self._predictor is None:
            from model import predict

            self._predictor = predict.Predictor(self.workdir)
        self._predictor.load(checkpoint.path, self.parameters)

    def _batches(self) -> Iterator[Any]:
        import tensorflow as tf

        data, split = self.evaluation_set.data, self.evaluation_set.split.name
        try:
            yield from self._predictor.predict(data, split, self._batch_size)
        except (
            tf.errors.DataLossError,
            tf.errors.InvalidArgumentError,
            tf.errors.NotFoundError,
        ) as error:
            raise EvaluationError(
                f"The shards of split {split!r} in {data} cannot be read: "
                f"{error.message.splitlines()[0]}. Write the split again."
            ) from error

    def _update(
        self, accumulator: ap.Accumulator, batch: Any, checkpoint: Checkpoint
    ) -> np.ndarray:
        first_image = accumulator.num_images
        try:
            return accumulator.update(batch.logits, batch.labels)
        except ap.NotANumberError as error:
            class_key = self.evaluation_set.vocabulary.classes[error.class_id]
            image_id = batch.image_ids[error.image - first_image]
            raise CheckpointError(
                f"{checkpoint.path} gives NaN for class {class_key!r} on image {image_id!r}: its "
                "parameters have diverged. Evaluate an earlier checkpoint, or train with a lower "
                "learning rate."
            ) from error

    def _report(self, checkpoint: Checkpoint, result: ap.Result) -> dict[str, Any]:
        weights_path = self.evaluation_set.weights_path
        return {
            "format_version": FORMAT_VERSION,
            "step": checkpoint.step,
            "samples": self._predictor.samples,
            "checkpoint": checkpoint.path,
            **self.conditions(),
            "class_weights": weights_path,
            "data": self.evaluation_set.data,
            "score_space": "logits float32",
            "num_images": result.num_images,
            "num_classes": len(result.positives),
            "num_classes_with_positives": int((result.positives > 0).sum()),
            "labels_per_image": result.num_labels / result.num_images,
            "headline": metrics.HEADLINE,
            "metrics": metrics.compute(
                result,
                self.evaluation_set.weights,
                self._training_counts,
                weights_given=weights_path is not None,
            ),
            "classes": self._class_columns(result),
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": {
                "python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _VERSIONS_OF},
            },
        }

    def _class_columns(self, result: ap.Result) -> dict[str, list[Any]]:
        return {
            "class": list(self.evaluation_set.vocabulary.classes),
            "name": list(self.evaluation_set.vocabulary.names),
            "positives": result.positives.tolist(),
            "training_count": self._training_counts.tolist(),
            "weight": self.evaluation_set.weights.tolist(),
            "average_precision": _nan_to_none(result.class_ap),
            "recall": _nan_to_none(result.recall),
        }


def _check_same_classes(workdir: str, evaluation_set: EvaluationSet) -> None:
    run, data = run_folder.read_vocabulary(workdir).classes, evaluation_set.vocabulary.classes
    if run == data:
        return
    pairs = itertools.zip_longest(map(repr, run), map(repr, data), fillvalue="none")
    differences = [
        f"\n  class {class_id}: {ours} and {theirs}"
        for class_id, (ours, theirs) in enumerate(pairs)
        if ours != theirs
    ]
    raise EvaluationError(
        f"The run {workdir} was trained on {len(run):,} classes and {evaluation_set.data} has "
        f"{len(data):,}; {len(differences):,} of them differ (run, then data):"
        f"{''.join(differences[:5])}\n"
        f"Write the split with the class list of the run, {Path(workdir) / 'classes.tsv'}."
    )


def _nan_to_none(values: np.ndarray) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values.tolist()]
