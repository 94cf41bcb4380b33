"""Small label files and photographs on disk, and the job run over them."""

import io
import pathlib

import numpy as np
from PIL import Image

import beam_runner

CLASSES = ("animal", "cat", "dog", "plant")


def jpeg(width=40, height=30, seed=0, mode="RGB", **options):
    """The bytes of a smooth JPEG that differs from seed to seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


class Workplace:
    """A folder with images, a label file and a class list, and the command run over them."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.images = root / "images"
        self.images.mkdir()
        self.labels = root / "train.csv"
        self.output = root / "out"
        self.classes = root / "classes.tsv"
        self.classes.write_text("class\tname\n" + "".join(f"{key}\tThe {key}\n" for key in CLASSES))

    def add_images(self, count):
        """Good images 0.jpg, 1.jpg, ... with one to two labels, as rows of a label file."""
        rows = []
        for index in range(count):
            (self.images / f"{index}.jpg").write_bytes(jpeg(seed=index))
            rows.append(f"{index}.jpg,{('cat|animal', 'dog|animal', 'plant')[index % 3]}")
        return rows

    def write_labels(self, rows, header="image_path,labels"):
        self.labels.write_text("\n".join([header, *rows]) + "\n")

    def arguments(self, *extra, split="train", without=()):
        """The flags of a run over this workplace, and `extra`, which replace their likes."""
        usual = {
            "source": "manifest",
            "labels": self.labels,
            "images": self.images,
            "output": self.output,
            "split": split,
            "classes": self.classes,
        }
        left_out = {*without, *(flag.split("=")[0].removeprefix("--") for flag in extra)}
        flags = [
            f"--{name}={value}"
            for name, value in usual.items()
            if name not in left_out and value is not None
        ]
        return [*flags, *extra]

    def run(self, *extra, split="train", without=()):
        """The exit code of beam_runner.py."""
        return beam_runner.main(self.arguments(*extra, split=split, without=without))

    def shards(self, split="train"):
        """Bytes of the shards by file name."""
        paths = sorted(self.output.glob(f"images-{split}.tfrecord-*"))
        return {path.name: path.read_bytes() for path in paths}

    def dead_letters(self, split="train"):
        return (self.output / f"{split}.dead_letters.csv").read_text()
