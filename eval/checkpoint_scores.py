"""Scores of a checkpoint, by what its folder says: the network on the images of a split."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from eval.evaluation_set import EvaluationError, EvaluationSet, Part
from eval.scores import LOGITS, Batch
from model import checkpoint as checkpoints
from model.checkpoint import Checkpoint, CheckpointError

_FILES = {"ema": "ema", "raw": "parameters"}
_loading = threading.Lock()  # Beam's workers have several threads
_kept: list[_Loaded] = []  # the network of this process, also for scores that were pickled into it


class CheckpointScores:
    """The logits of a checkpoint's network; one checkpoint after another can be chosen.

    Args:
        parameters: "ema" for the Polyak averages, "raw" for the parameters as training left them.
        batch_size: how many images are scored together.
    """

    def __init__(self, parameters: str = "ema", batch_size: int = 64):
        self.parameters, self._batch_size = parameters, batch_size
        self.checkpoint: Checkpoint | None = None

    def choose(self, checkpoint: Checkpoint) -> None:
        """Takes this checkpoint from now on."""
        self.checkpoint = checkpoint

    def hash_of(self, checkpoint: Checkpoint) -> str:
        """sha256 of the parameters that are evaluated; raises CheckpointError."""
        return checkpoints.read_state(checkpoint.path)["sha256"][_FILES[self.parameters]]

    def provenance(self) -> dict[str, Any]:
        """See Scores; raises CheckpointError."""
        checkpoint = self._chosen()
        state = checkpoints.read_state(checkpoint.path)
        loss = checkpoints.read_config(checkpoint.path).loss.name
        return {
            "source": "checkpoint",
            "checkpoint": checkpoint.path,
            "checkpoint_sha256": state["sha256"][_FILES[self.parameters]],
            "step": state["step"],
            "samples": state["samples"],
            "parameters": self.parameters,
            "score_space": LOGITS,
            "probability": None if loss == "softmax_cross_entropy" else "sigmoid",
        }

    def batches(self, evaluation_set: EvaluationSet, part: Part) -> Iterator[Batch]:
        """See Scores.

        Raises CheckpointError (it is gone, damaged, or of other classes) or EvaluationError (the
        shards cannot be read).
        """
        checkpoint = self._chosen()
        evaluation_set.check_has_shards()
        try:
            vocabulary = checkpoints.read_vocabulary(checkpoint.path)
            evaluation_set.check_same_classes(vocabulary, f"{checkpoint.path}/classes.tsv")
        except EvaluationError as error:
            raise CheckpointError(str(error)) from error
        with _loading:
            predictor = _loaded(checkpoint.path).holding(
                checkpoint.path, self.parameters, self.hash_of(checkpoint)
            )
        with evaluation_set.reading_shards():
            for batch in predictor.predict(
                evaluation_set.data, evaluation_set.split.name, self._batch_size, part.shards
            ):
                yield Batch(
                    batch.image_ids, batch.logits, batch.labels, batch.negatives, batch.images
                )

    def not_a_number(self, image_id: str, class_key: str) -> CheckpointError:
        """See Scores."""
        return CheckpointError(
            f"{self._chosen().path} gives NaN for class {class_key!r} on image {image_id!r}: its "
            "parameters have diverged. Evaluate an earlier checkpoint, or train with a lower "
            "learning rate."
        )

    def _chosen(self) -> Checkpoint:
        if self.checkpoint is None:
            raise EvaluationError("No checkpoint was chosen: call `choose` first.")
        return self.checkpoint


class _Loaded:
    """A checkpoint's network, and which parameters are in it."""

    def __init__(self, path: str):
        from model import predict

        self._predictor = predict.Predictor(path)
        self.is_of = self._predictor.is_of
        self._loaded: tuple[str, str, str] | None = None

    def holding(self, path: str, parameters: str, sha256: str) -> Any:
        """The predictor with these parameters; a step that was trained anew has another hash."""
        if self._loaded != (path, parameters, sha256):
            self._loaded = None  # what a load that fails leaves is neither
            self._predictor.load(path, parameters)
            self._loaded = (path, parameters, sha256)
        return self._predictor


def _loaded(path: str) -> _Loaded:
    """The network of a checkpoint: that of the one before, where it is the same."""
    if not (_kept and _kept[0].is_of(path)):
        _kept[:] = [_Loaded(path)]
    return _kept[0]
