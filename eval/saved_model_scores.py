"""Scores of a network that was saved whole: a .keras file, or the folder of a SavedModel.

It takes one input: float32 [images, size, size, 3] in [-1, 1], the central crop that our trainer
evaluates with (model.augment), or strings: the JPEGs. It gives one output, [images, classes].

A sigmoid or softmax at the end of a .keras network is taken off, so that its logits are ranked:
in float32 many of its values would be 1, and tie. What a SavedModel gives is taken as it is.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eval.evaluation_set import EvaluationError, EvaluationSet, Part
from eval.scores import LOGITS, PROBABILITY_OF, Batch
from model import quiet
from model.config import InputConfig
from pipeline import schema

_KERAS = ".keras"
_SATURATING = ("sigmoid", "softmax")


class SavedModelScores:
    """The outputs of a saved network; it is loaded at the first batch.

    Args:
        path: a .keras file, or the folder of a SavedModel.
        space: what the outputs of a SavedModel are, a key of PROBABILITY_OF.
        batch_size: how many images are scored together.

    Raises EvaluationError where there is no such network.
    """

    def __init__(self, path: str, space: str, batch_size: int = 64):
        self._path, self._space, self._batch_size = path, space, batch_size
        is_folder = (Path(path) / "saved_model.pb").is_file()
        if not (is_folder or (path.endswith(_KERAS) and Path(path).is_file())):
            raise EvaluationError(
                f"{path} is no saved network: neither a file that ends with {_KERAS}, nor a folder "
                "with a saved_model.pb."
            )
        self._network: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """All but the network, which another process loads for itself."""
        return {**self.__dict__, "_network": None}

    def provenance(self) -> dict[str, Any]:
        """See Scores."""
        is_keras = self._path.endswith(_KERAS)
        network = self._load() if is_keras else None
        probability = network.probability if network else PROBABILITY_OF[self._space]
        return {
            "source": "saved_model",
            "checkpoint": self._path,
            "checkpoint_sha256": _sha256(Path(self._path)),
            "step": 0,
            "samples": 0,
            "parameters": "as_saved",
            "score_space": LOGITS if is_keras else f"{self._space} float32",
            "probability": probability,
        }

    def batches(self, evaluation_set: EvaluationSet, part: Part) -> Iterator[Batch]:
        """See Scores; EvaluationError where the network does not fit the images or classes."""
        evaluation_set.check_has_shards()
        network = self._load()
        import tensorflow as tf

        from model.input import evaluation_dataset

        num_classes = len(evaluation_set.vocabulary)
        settings = InputConfig(image_size=network.image_size or InputConfig.image_size)
        shard_paths = evaluation_set.split.shard_paths[part.shards]
        with evaluation_set.reading_shards():
            for examples, images in evaluation_dataset(settings, shard_paths, self._batch_size):
                jpegs = examples[schema.IMAGE]
                # Always of one size, since kernels round by shape: an image's scores are the same
                # bits, however the images are cut over processes.
                full = np.arange(self._batch_size) % len(jpegs)
                inputs = tf.gather(jpegs if network.takes_jpegs else images, full)
                scores = network.forward(inputs)[: len(jpegs)]
                if scores.shape != (len(jpegs), num_classes):
                    raise EvaluationError(
                        f"{self._path} gives scores of shape {list(scores.shape)} for {len(jpegs)} "
                        f"images, and {evaluation_set.data} has {num_classes:,} classes."
                    )
                yield Batch(
                    [image_id.decode() for image_id in examples[schema.IMAGE_ID].numpy()],
                    scores,
                    [row[row >= 0] for row in examples[schema.LABELS].numpy()],
                    [row[row >= 0] for row in examples[schema.NEGATIVES].numpy()],
                    list(jpegs.numpy()),
                )

    def not_a_number(self, image_id: str, class_key: str) -> EvaluationError:
        """See Scores."""
        return EvaluationError(
            f"{self._path} gives NaN for class {class_key!r} on image {image_id!r}."
        )

    def _load(self) -> Any:
        if self._network is None:
            quiet.start_tensorflow()
            read = _KerasNetwork if self._path.endswith(_KERAS) else _SavedModel
            self._network = read(self._path)
        return self._network


class _KerasNetwork:
    """A .keras file without what saturates at its end."""

    takes_jpegs = False

    def __init__(self, path: str):
        import keras
        import tensorflow as tf

        try:
            network = keras.saving.load_model(path, compile=False, safe_mode=True)
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            raise EvaluationError(f"{path} cannot be loaded as a Keras network: {error}") from error
        if not isinstance(network.input_shape, tuple) or len(network.input_shape) != 4:
            raise EvaluationError(
                f"{path} must take images, [images, size, size, 3]. It takes {network.input_shape}."
            )
        self.image_size = network.input_shape[1]
        last = network.layers[-1]
        activation = getattr(getattr(last, "activation", None), "__name__", "linear")
        activation = {"Softmax": "softmax"}.get(type(last).__name__, activation)
        self.probability = None if activation == "softmax" else "sigmoid"
        if activation in _SATURATING:
            if not hasattr(last, "activation"):
                raise EvaluationError(
                    f"{path} ends with the layer {last.name!r}, a {activation}: save the network "
                    "up to its logits."
                )
            last.activation = keras.activations.linear
        self._forward = tf.function(lambda images: network(images, training=False))

    def forward(self, images: Any) -> np.ndarray:
        """float32 [images, classes]."""
        return self._forward(images).numpy().astype(np.float32, copy=False)


class _SavedModel:
    """The default signature of a SavedModel."""

    def __init__(self, path: str):
        import tensorflow as tf

        try:
            loaded = tf.saved_model.load(path)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise EvaluationError(f"{path} cannot be loaded as a SavedModel: {error}") from error
        self._signature = loaded.signatures.get("serving_default")
        inputs = self._signature.structured_input_signature[1] if self._signature else {}
        if len(inputs) != 1 or len(self._signature.structured_outputs) != 1:
            raise EvaluationError(
                f"{path} must have a signature 'serving_default' of one input and one output. It "
                f"has the signatures {', '.join(loaded.signatures) or 'none'}, and this one takes "
                f"{', '.join(inputs) or 'nothing'}."
            )
        self._loaded = loaded  # holds the variables
        ((self._input, spec),) = inputs.items()
        self.takes_jpegs = spec.dtype == tf.string
        self.image_size = None if self.takes_jpegs else spec.shape[1]

    def forward(self, images: Any) -> np.ndarray:
        """float32 [images, classes]."""
        (scores,) = self._signature(**{self._input: images}).values()
        return scores.numpy().astype(np.float32, copy=False)


def _sha256(path: Path) -> str:
    """Of a file's bytes; of a folder's files, each with its name, in order of those."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            name = file.relative_to(path).as_posix()
            digest.update(f"{name}\n{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
