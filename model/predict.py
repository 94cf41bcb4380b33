"""Scores of a checkpoint for every image of a split, without a cluster.

path = checkpoint.list_checkpoints("runs/1")[-1].path
predictor = Predictor(path)
predictor.load(path)
for batch in predictor.predict("shards", "eval"):
    batch.image_ids, batch.logits, batch.labels
"""

import dataclasses

import numpy as np

from model import checkpoint, quiet, run_folder
from pipeline import metadata, schema


@dataclasses.dataclass(frozen=True)
class Batch:
    """Predictions for some images. Lists and first axes are of the same length."""

    image_ids: list[str]
    logits: np.ndarray  # float32 [b, num_classes]
    labels: list[np.ndarray]  # int64 class ids of each image's positives
    negatives: list[np.ndarray]  # int64 class ids of its verified negatives
    images: list[bytes]  # the JPEGs


class Predictor:
    """The network of a run or of a checkpoint, into which one checkpoint after another is loaded.

    Raises ConfigError or LabelError where the folder is incomplete. The first one in a process
    imports TensorFlow, which takes seconds.
    """

    def __init__(self, folder):
        self.config = run_folder.read_config(folder)
        self.vocabulary = run_folder.read_vocabulary(folder)
        quiet.start_tensorflow()
        import tensorflow as tf

        from model import zoo

        self.step = self.samples = 0
        self._network = zoo.build(self.config, len(self.vocabulary))
        self._forward = tf.function(lambda images: self._network(images, training=False))

    def is_of(self, checkpoint_path):
        """Whether this is the network of a checkpoint; raises CheckpointError."""
        config = checkpoint.read_config(checkpoint_path)
        is_alike = (config.network, config.input) == (self.config.network, self.config.input)
        return is_alike and checkpoint.read_vocabulary(checkpoint_path) == self.vocabulary

    def load(self, checkpoint_path, parameters="ema"):
        """Loads the Polyak averages ("ema") or the parameters themselves ("raw").

        Raises CheckpointError: it is gone, damaged, or of another network or class list.
        """
        state = checkpoint.read_state(checkpoint_path)
        if state["class_list_sha256"] != run_folder.class_list_hash(self.vocabulary):
            raise checkpoint.CheckpointError(
                f"{checkpoint_path} was trained on another class list than the classes.tsv here."
            )
        values = checkpoint.load(checkpoint_path, parameters)
        for variable in self._network.weights:
            value = values.get(variable.path)
            if value is None or value.shape != tuple(variable.shape):
                found = "nothing" if value is None else f"shape {value.shape}"
                raise checkpoint.CheckpointError(
                    f"{checkpoint_path} is of another network: {variable.path} has shape "
                    f"{tuple(variable.shape)} here, and the checkpoint holds {found}."
                )
        for variable in self._network.weights:
            variable.assign(values[variable.path])
        self.step, self.samples = state["step"], state["samples"]

    def _logits(self, images, batch_size):
        """Of a batch that may be the last of its shards: padded, since kernels round by shape.

        So an image's logits are the same bits, however the images are cut over processes.
        """
        num_images = len(images)
        if num_images < batch_size:
            images = np.pad(images, [(0, batch_size - num_images), (0, 0), (0, 0), (0, 0)])
        return self._forward(images).numpy()[:num_images]

    def predict(self, data_dir, split, batch_size=64, shards=slice(None)):
        """Yields a Batch at a time, each example exactly once, in the order of the shards.

        `shards`: which of the split's shards to read; all of them by default.
        """
        from model.input import evaluation_dataset

        shard_paths = metadata.load_split(data_dir, split).shard_paths[shards]
        for examples, images in evaluation_dataset(self.config.input, shard_paths, batch_size):
            yield Batch(
                image_ids=[image_id.decode() for image_id in examples[schema.IMAGE_ID].numpy()],
                logits=self._logits(images.numpy(), batch_size),
                labels=[row[row >= 0] for row in examples[schema.LABELS].numpy()],
                negatives=[row[row >= 0] for row in examples[schema.NEGATIVES].numpy()],
                images=list(examples[schema.IMAGE].numpy()),
            )
