"""Evaluates scores on an evaluation set.

    evaluator = Evaluator(EvaluationSet.read("shards", "eval", "weights.tsv"), training_counts)
    evaluation = evaluator.evaluate(scores)

What can be wrong with the inputs is found before TensorFlow is imported, at the first batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval import average_precision as ap
from eval.checkpoint_scores import CheckpointScores
from eval.evaluation_set import EvaluationError, EvaluationSet, Part
from eval.examples import Gallery
from eval.influence import Influence
from eval.progress import Progress
from eval.scores import Scores
from eval.summary import summarize
from eval.tally import Tally
from eval.uncut import MAX_SCORES
from model import run_folder, versions
from model.checkpoint import Checkpoint
from pipeline import labels

Count = Callable[[Scores, EvaluationSet], tuple[Tally, Gallery]]  # of all images

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation gave."""

    report: dict[str, Any]  # JSON values
    examples: dict[str, Any]  # likewise
    influence: Influence


def count(
    scores: Scores,
    evaluation_set: EvaluationSet,
    part: Part,
    advance: Callable[[int], object],
) -> tuple[Tally, Gallery]:
    """Goes once over the images of a part; tells `advance` the number of each batch's.

    Raises what the scores raise where they cannot be read, or hold a NaN.
    """
    vocabulary = evaluation_set.vocabulary
    num_scores = evaluation_set.split.num_examples * len(vocabulary)
    tally = Tally(
        len(vocabulary),
        evaluation_set.weights,
        part.first_image,
        with_verified=evaluation_set.has_negatives,
        with_uncut=num_scores <= MAX_SCORES,
    )
    gallery = Gallery()
    for batch in scores.batches(evaluation_set, part):
        first_image = tally.all.next_image
        try:
            image_ap = tally.update(batch)
        except ap.NotANumberError as error:
            image_id = batch.image_ids[error.image - first_image]
            class_key = vocabulary.classes[error.class_id]
            raise scores.not_a_number(image_id, class_key) from error
        if batch.images is not None:
            gallery.offer(batch.image_ids, batch.images, batch.labels, batch.scores, image_ap)
        advance(len(batch.image_ids))
    return tally, gallery


def count_whole(scores: Scores, evaluation_set: EvaluationSet) -> tuple[Tally, Gallery]:
    """Goes once over all images, in this process."""
    with Progress("evaluating", evaluation_set.split.num_examples) as progress:
        return count(scores, evaluation_set, evaluation_set.whole(), progress.advance)


class Evaluator:
    """Evaluates one source of scores after another on the same images.

    Args:
        evaluation_set: what to evaluate on.
        training_counts: int64 [num_classes], how often training showed each class; None where that
            is not known: then there is no prior-only baseline.
        curve_classes: ids of the classes whose curves the report holds; None: a few telling ones.
        count: how the images are gone over: `count_whole`, or in several processes.
    """

    def __init__(
        self,
        evaluation_set: EvaluationSet,
        training_counts: np.ndarray | None = None,
        curve_classes: Sequence[int] | None = None,
        count: Count = count_whole,
    ):
        self.evaluation_set = evaluation_set
        self._training_counts, self._curve_classes = training_counts, curve_classes
        self._count = count

    def evaluate(self, scores: Scores) -> Evaluation:
        """The report, the example images and the influences of these scores.

        Raises what the scores raise (CheckpointError: a checkpoint is gone, damaged or foreign, or
        its scores are not numbers), or EvaluationError (the images cannot be read, or are not those
        of the metadata).
        """
        started = time.monotonic()
        provenance = scores.provenance()
        tally, gallery = self._count(scores, self.evaluation_set)
        split = self.evaluation_set.split
        if tally.num_images != split.num_examples:
            raise EvaluationError(
                f"The shards of split {split.name!r} hold {tally.num_images:,} images, and its "
                f"metadata says {split.num_examples:,}. Write the split again."
            )
        probability = provenance.pop("probability")
        summary, influence = summarize(
            tally, self.evaluation_set, self._training_counts, self._curve_classes, probability
        )
        report = {
            "format_version": FORMAT_VERSION,
            **provenance,
            **self.evaluation_set.conditions(provenance["parameters"]),
            "class_weights": self.evaluation_set.weights_path,
            "data": self.evaluation_set.data,
            **summary,
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "versions": versions.installed(),
            "seconds": round(time.monotonic() - started, 2),
        }
        classes = self.evaluation_set.vocabulary.classes
        examples = {"step": provenance["step"], **gallery.to_json(classes)}
        return Evaluation(report, examples, influence)


class RunEvaluator:
    """Evaluates the checkpoints of one run; builds the network once, at the first.

    Raises ConfigError or LabelError where the run's folder is incomplete, EvaluationError where it
    is of other classes than the evaluation set.
    """

    def __init__(
        self,
        workdir: str,
        evaluation_set: EvaluationSet,
        parameters: str = "ema",
        batch_size: int = 64,
        curve_classes: Sequence[int] | None = None,
        count: Count = count_whole,
    ):
        self.workdir, self.evaluation_set = workdir, evaluation_set
        run_folder.read_config(workdir)  # says in words what is no run's folder
        classes_path = Path(workdir) / "classes.tsv"
        evaluation_set.check_same_classes(run_folder.read_vocabulary(workdir), str(classes_path))
        training_counts = labels.read_class_counts(
            Path(workdir) / "class_counts.tsv", evaluation_set.vocabulary
        )
        self._scores = CheckpointScores(parameters, batch_size)
        self._evaluator = Evaluator(evaluation_set, training_counts, curve_classes, count)

    def conditions(self) -> dict[str, Any]:
        """What must agree for two evaluations to be points of one training profile."""
        return self.evaluation_set.conditions(self._scores.parameters)

    def hash_of(self, checkpoint: Checkpoint) -> str:
        """sha256 of the parameters that are evaluated; raises CheckpointError."""
        return self._scores.hash_of(checkpoint)

    def evaluate(self, checkpoint: Checkpoint) -> Evaluation:
        """See Evaluator.evaluate."""
        self._scores.choose(checkpoint)
        return self._evaluator.evaluate(self._scores)
