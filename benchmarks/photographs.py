"""Photographs to measure with, each different, and the label file that names them.

    python -m benchmarks.photographs --output=folder --count=2400 [--images=photos]

Takes the JPEGs of a folder, or draws some: scenes under 1/f noise, as photographs have it, and the
grain of a sensor. They are repeated until there are enough; a comment makes every copy another
file. Prints one line of JSON.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import usage
from pipeline import synthetic
from pipeline.images import ImageError, ImageRecipe, prepare

NUM_DRAWN = 60
MAX_PHOTOGRAPHS = 1_000  # that are taken of a folder
NUM_CLASSES, LABELS_PER_IMAGE = 200, 3
_SHORTER_SIDE, _LONGER_SIDE = (480, 1000), (640, 1500)  # pixels, of what is drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    photographs = list(found(options.images) if options.images else drawn(NUM_DRAWN))
    if not photographs:
        parser.error(f"no JPEG that can be used in {options.images}")
    write(options.output, photographs, options.count)
    sides = [min(Image.open(io.BytesIO(data)).size) for data in photographs]
    print(
        json.dumps(
            {
                "photographs": len(photographs),
                "median_bytes": int(np.median([len(data) for data in photographs])),
                "median_shorter_side": int(np.median(sides)),
            }
        )
    )


def found(folder: Path) -> Iterator[bytes]:
    """The sound JPEG files below a folder, spread evenly over their names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for path in paths[:: -(-len(paths) // MAX_PHOTOGRAPHS) or 1]:
        data = path.read_bytes()
        try:
            prepare(data, ImageRecipe())
        except ImageError:
            continue
        if data.startswith(b"\xff\xd8"):
            yield data


def drawn(count: int) -> Iterator[bytes]:
    """JPEGs with the detail of photographs: about 300 kB, for a megapixel."""
    parameters = synthetic.Parameters(num_train=count, num_eval=0, seed=0)
    for index in range(count):
        rng = np.random.default_rng((1, index))
        size = int(rng.integers(*_LONGER_SIDE)), int(rng.integers(*_SHORTER_SIDE))
        scene, _ = synthetic.draw(parameters, "train", index)
        smooth = Image.fromarray(scene).resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(smooth, np.float32) + 38 * _clouds(rng, *size)[:, :, None]
        pixels += rng.normal(0, 2, pixels.shape)
        stream = io.BytesIO()
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(stream, "JPEG", quality=90)
        yield stream.getvalue()


def _clouds(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """float32 [height, width] of deviation 1, whose amplitude falls with the frequency."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal((height, width)))
    clouds = np.fft.irfft2(white / frequency**1.2, (height, width))
    return (clouds / clouds.std()).astype(np.float32)


def write(folder: Path, photographs: list[bytes], count: int) -> None:
    """Writes 000000.jpg and so on, `rows.csv` and `classes.tsv`."""
    folder.mkdir(parents=True)
    classes = [f"class_{number:03d}" for number in range(NUM_CLASSES)]
    lines = ["image_path,labels"]
    for index in range(count):
        copy, number = divmod(index, len(photographs))
        name = f"{index:06d}.jpg"
        (folder / name).write_bytes(distinct(photographs[number], copy))
        labels = (classes[(index + 7 * step) % NUM_CLASSES] for step in range(LABELS_PER_IMAGE))
        lines.append(f"{name},{'|'.join(labels)}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "classes.tsv").write_text("\n".join(["class", *classes]) + "\n")


def shard(folder: Path, images: Path | None, count: int, image_size: int) -> Path:
    """Shards so many photographs, of a folder or drawn, by the pipeline's command; their folder."""
    write(folder / "photographs", list(found(images) if images else drawn(NUM_DRAWN)), count)
    command = [
        *(sys.executable, "beam_runner.py", "--source=manifest"),
        f"--labels={folder}/photographs/rows.csv",
        f"--images={folder}/photographs",
        f"--classes={folder}/photographs/classes.tsv",
        f"--output={folder}/shards",
        f"--shorter_side={image_size}",
        *("--num_shards=8", "--split=train"),
    ]
    usage.run(command, folder / "sharding.log")
    return folder / "shards"


def distinct(jpeg: bytes, copy: int) -> bytes:
    """The same image in another file.

    Copies differ in length, as photographs do: telling files of one length apart costs the job a
    second read, which photographs do not need.
    """
    comment = b"." * copy
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


if __name__ == "__main__":
    main()
