"""A dataset of a few images and checkpoints of a network, as small as the real parts allow."""

import io
import json

import numpy as np
from PIL import Image

from pipeline import metadata, schema, tfrecord
from pipeline.labels import Vocabulary, write_class_counts

CLASSES = Vocabulary(("red", "green", "blue", "none"), ("Red", "Green", "<script>alert(1)", "No"))
STEPS = (10, 20)
TINY = ["network.width=0.1", "network.middle_modules=0", "input.image_size=32"]


def write_dataset(folder, num_images=30, split="eval", vocabulary=CLASSES):
    """Images of one colour, labelled with it; every fifth has no label, and one class no image."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.write(folder / "classes.tsv")
    counts = np.zeros(len(vocabulary), np.int64)
    shards = [b"", b""]
    for index in range(num_images):
        colour = index % 3
        pixels = np.zeros((24, 24, 3), np.uint8)
        pixels[..., colour] = 100 + 5 * index
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG")
        labels = () if index % 5 == 4 else (colour,)
        counts[list(labels)] += 1
        sure, said = (1.0,) * len(labels), ("",) * len(labels)
        example = schema.Example(f"image-{index}", jpeg.getvalue(), labels, sure, said)
        shards[index % 2] += tfrecord.frame(schema.encode(example))
    for number, data in enumerate(shards):
        (folder / metadata.shard_file(split, number, len(shards))).write_bytes(data)
    write_class_counts(folder / metadata.class_counts_file(split), vocabulary, counts)
    completed = {
        "format_version": schema.FORMAT_VERSION,
        "split": split,
        "num_examples": num_images,
        "shard_lengths": [(num_images + 1) // 2, num_images // 2],
        "fingerprint": "of-the-test",
    }
    (folder / metadata.completed_file(split)).write_text(json.dumps(completed))


def save_checkpoint(run_dir, network, step, offset=0.0, noise=0.0):
    """A checkpoint of the network's initial parameters, all moved by `offset` and some noise."""
    from model import checkpoint, config

    rng = np.random.default_rng(step)
    values = {
        variable.path: variable.numpy()
        + (offset + noise * rng.random(variable.shape)).astype(variable.dtype)
        for variable in network.variables
    }
    slots = {"slot": np.zeros(1, np.float32)}
    state = {
        "step": step,
        "samples": 32 * step,
        "seconds": float(step),
        "parameters": values,
        "ema": values,
        "mean_square": slots,
        "momentum": slots,
    }
    keep_all = config.load_preset("demo", [*TINY, "train.keep_checkpoints=100"])
    return checkpoint.save(run_dir, state, keep_all, CLASSES)
