"""Draws a labelled image dataset, files on disk as a user would have them:

    python -m pipeline.synthetic --output=scenes

    scenes/images/train/000000.jpg, images/eval/...   64 to 96 pixels, one to three objects
    scenes/train.csv, eval.csv                        image_path,labels with `|` between labels
    scenes/classes.tsv, class_weights.tsv

An object has a shape, a colour and a texture; a scene's labels are its background and all that its
objects imply: a striped red circle is `red`, `circle`, `striped`, `red_circle`, `striped_red` and
`striped_circle`. Each is drawn with a long tail. A fifth of the training labels is dropped;
evaluation labels are complete. The same parameters give the same bytes, with any number of workers.
"""

import argparse
import concurrent.futures
import functools
import json
import math
import multiprocessing
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageDraw

from pipeline import labels
from pipeline.cores import num_cores

SHAPES = (
    "circle", "square", "triangle", "star", "cross",
    "ring", "crescent", "heart", "arrow", "hourglass",
)  # fmt: skip
COLORS = {
    "red": (215, 25, 30), "blue": (20, 50, 225), "green": (15, 155, 35), "yellow": (250, 230, 20),
    "white": (250, 250, 250), "black": (10, 10, 10), "orange": (255, 135, 0), "cyan": (0, 225, 235),
    "magenta": (240, 20, 215), "purple": (95, 10, 145),
}  # fmt: skip
TEXTURES = ("plain", "striped", "checked", "dotted")  # `plain` is no label
BACKGROUNDS = {
    "sand": (176, 160, 128), "water": (112, 140, 164), "wood": (150, 122, 96),
    "brick": (160, 116, 104), "grass": (118, 148, 104), "slate": (116, 118, 126),
    "fabric": (152, 132, 158), "tiles": (148, 160, 156),
}  # fmt: skip

MIN_SIDE, MAX_SIDE = 64, 96
LABEL_DROP_RATE = 0.2
JPEG_QUALITY = 90
IMAGES_PER_TASK = 250
_MARKER = "synthetic.json"
_SPLIT_KEYS = {"train": 0, "eval": 1}  # part of an image's random seed


class SyntheticError(ValueError):
    """Parameters or an output folder that cannot be used."""


class Parameters(NamedTuple):
    """What decides the bytes of the dataset."""

    num_train: int
    num_eval: int
    seed: int

    def num_images(self, split: str) -> int:
        return self.num_train if split == "train" else self.num_eval


class Thing(NamedTuple):
    """One object of a scene."""

    shape: str
    color: str
    texture: str

    def labels(self) -> set[str]:
        """The object's label with everything that it implies."""
        implied = {self.shape, self.color, f"{self.color}_{self.shape}"}
        if self.texture != "plain":
            implied |= {self.texture} | {
                f"{self.texture}_{part}" for part in (self.shape, self.color)
            }
        return implied


def classes() -> tuple[str, ...]:
    """Every label that can occur, general ones first."""
    textures = TEXTURES[1:]
    return (
        *SHAPES,
        *COLORS,
        *textures,
        *BACKGROUNDS,
        *(f"{color}_{shape}" for color in COLORS for shape in SHAPES),
        *(f"{texture}_{part}" for texture in textures for part in (*SHAPES, *COLORS)),
    )


def draw(parameters: Parameters, split: str, index: int) -> tuple[np.ndarray, set[str]]:
    """(uint8 [height, width, 3], complete labels) of image `index` of a split."""
    rng = np.random.default_rng((parameters.seed, _SPLIT_KEYS[split], index))
    width, height = (int(side) for side in rng.integers(MIN_SIDE, MAX_SIDE + 1, 2))
    background = _pick(rng, tuple(BACKGROUNDS), decay=0.75)
    image = _background_image(rng, background, width, height)
    scene_labels = {background}
    num_things = int(rng.choice(3, p=(0.35, 0.4, 0.25))) + 1
    for left, top, diameter in _places(rng, num_things, width, height):
        thing = Thing(
            shape=_pick(rng, SHAPES, decay=0.8),
            color=_pick(rng, tuple(COLORS), decay=0.8),
            texture=_pick(rng, TEXTURES, decay=0.6),
        )
        mask = _mask(rng, thing.shape, diameter)
        image.paste(_surface(rng, thing, diameter), (left, top), mask)
        scene_labels |= thing.labels()
    return np.asarray(image), scene_labels


@functools.cache
def _long_tail(count: int, decay: float) -> np.ndarray:
    weights = decay ** np.arange(count)
    return np.cumsum(weights / weights.sum())


def _pick(rng: np.random.Generator, choices: Sequence[str], decay: float) -> str:
    """One of `choices`; each is `decay` times as likely as the one before it."""
    place = rng.random() * 0.999999  # below the last sum, which rounding may leave short of 1
    return choices[int(np.searchsorted(_long_tail(len(choices), decay), place))]


def _places(
    rng: np.random.Generator, count: int, width: int, height: int
) -> list[tuple[int, int, int]]:
    """(left, top, diameter) of each object: one anywhere, or several in quarters of their own."""
    side = min(width, height)
    if count == 1:
        diameter = int(side * rng.uniform(0.5, 0.8))
        return [
            (int(rng.integers(width - diameter)), int(rng.integers(height - diameter)), diameter)
        ]
    places = []
    for quarter in rng.permutation(4)[:count]:
        diameter = int(side * rng.uniform(0.38, 0.48))
        left = int(quarter % 2 * width / 2 + rng.uniform(0, width / 2 - diameter))
        top = int(quarter // 2 * height / 2 + rng.uniform(0, height / 2 - diameter))
        places.append((left, top, diameter))
    return places


@functools.cache
def _background_pattern(name: str) -> np.ndarray:
    """float32 [192, 192], about -1 to 1: the relief of a background, cropped for each scene."""
    y, x = np.mgrid[0:192, 0:192].astype(np.float32)
    noise = np.random.default_rng(7).standard_normal((192, 192), dtype=np.float32)
    grain = {
        "sand": noise,
        "water": np.sin(y / 2 + 2 * np.sin(x / 9)),
        "wood": np.sin(x / 1.5 + np.sin(y / 30)) + 0.3 * noise,
        "brick": np.where((y % 10 < 2) | ((x + (y // 10 % 2) * 10) % 20 < 2), -2.0, 0.5),
        "grass": np.roll(noise, 1, 0) + noise + np.roll(noise, -1, 0),
        "slate": np.sin((x + y) / 17) + np.sin((x - 2 * y) / 23),
        "fabric": np.where((x + y) % 6 < 3, 1.0, -1.0),
        "tiles": np.where((x % 16 < 2) | (y % 16 < 2), 2.0, -0.3),
    }
    return grain[name].astype(np.float32)


def _background_image(rng: np.random.Generator, name: str, width: int, height: int) -> Image.Image:
    left, top = rng.integers(0, 192 - MAX_SIDE, 2)
    relief = _background_pattern(name)[top : top + height, left : left + width]
    tint = np.array(BACKGROUNDS[name], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
    slope = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(rng.uniform(-16, 16))
    lightness = relief * np.float32(rng.uniform(9, 15)) + slope
    pixels = np.clip(tint + lightness[:, :, None], 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


@functools.cache
def _texture_pattern(name: str) -> Image.Image:
    """Mode L, 192 x 192: where an object shows its second colour."""
    y, x = np.mgrid[0:192, 0:192]
    second = {
        "plain": np.zeros((192, 192), bool),
        "striped": y % 8 < 4,
        "checked": (x // 6 + y // 6) % 2 == 0,
        "dotted": (x % 9 - 4) ** 2 + (y % 9 - 4) ** 2 < 9,
    }
    return Image.fromarray(second[name].astype(np.uint8) * 255)


def _surface(rng: np.random.Generator, thing: Thing, diameter: int) -> Image.Image:
    """The coloured, textured square that an object's mask is cut from."""
    color = np.clip(np.array(COLORS[thing.color]) + rng.integers(-14, 15, 3), 0, 255)
    surface = Image.new("RGB", (diameter, diameter), tuple(color.tolist()))
    if thing.texture == "plain":
        return surface
    contrast = -0.6 * color if color.mean() > 100 else 0.55 * (255 - color)
    second = tuple(np.clip(color + contrast, 0, 255).astype(int).tolist())
    left, top = (int(offset) for offset in rng.integers(0, 96, 2))
    pattern = _texture_pattern(thing.texture).crop((left, top, left + diameter, top + diameter))
    surface.paste(second, (0, 0), pattern)
    return surface


_POLYGONS: dict[str, tuple[tuple[float, float], ...]] = {  # in the unit disc
    "square": ((-0.72, -0.72), (0.72, -0.72), (0.72, 0.72), (-0.72, 0.72)),
    "triangle": ((0, -1), (0.87, 0.6), (-0.87, 0.6)),
    "star": tuple(
        (radius * math.sin(math.pi * point / 5), -radius * math.cos(math.pi * point / 5))
        for point, radius in enumerate((1, 0.4) * 5)
    ),
    "cross": (
        (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
        (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
    ),
    "heart": (
        (0, 0.95), (-0.9, 0.0), (-0.95, -0.4), (-0.7, -0.75), (-0.3, -0.75), (0, -0.4),
        (0.3, -0.75), (0.7, -0.75), (0.95, -0.4), (0.9, 0.0),
    ),
    "arrow": (
        (0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 0.95), (-0.3, 0.95), (-0.3, -0.1), (-0.8, -0.1),
    ),
    "hourglass": ((-0.75, -0.9), (0.75, -0.9), (0.12, 0), (0.75, 0.9), (-0.75, 0.9), (-0.12, 0)),
}  # fmt: skip


def _mask(rng: np.random.Generator, shape: str, diameter: int) -> Image.Image:
    """Mode L [diameter, diameter]: 255 inside the shape, which stands up to 20 degrees askew."""
    mask = Image.new("L", (diameter, diameter))
    pen = ImageDraw.Draw(mask)
    radius = diameter / 2
    angle = rng.uniform(-0.35, 0.35)
    if shape in _POLYGONS:
        sine, cosine = math.sin(angle), math.cos(angle)
        points = [
            (radius * (1 + x * cosine - y * sine), radius * (1 + x * sine + y * cosine))
            for x, y in _POLYGONS[shape]
        ]
        pen.polygon(points, fill=255)
        return mask
    pen.ellipse((0, 0, diameter - 1, diameter - 1), fill=255)
    if shape == "ring":
        hole = 0.52 * radius
        pen.ellipse((radius - hole, radius - hole, radius + hole, radius + hole), fill=0)
    elif shape == "crescent":
        shift = 0.55 * radius
        pen.ellipse((shift, -0.1 * radius, shift + diameter, diameter - 0.1 * radius), fill=0)
    return mask


def write_task(root: str, parameters: Parameters, split: str, start: int, stop: int) -> list[str]:
    """Draws and writes images start to stop of a split; the lines of its label file."""
    lines = []
    for index in range(start, stop):
        pixels, scene_labels = draw(parameters, split, index)
        path = f"images/{split}/{index:06d}.jpg"
        jpeg = simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorsubsampling="420")
        pathlib.Path(root, path).write_bytes(jpeg)
        kept = sorted(scene_labels)
        if split == "train":
            rng = np.random.default_rng((parameters.seed, len(_SPLIT_KEYS), index))
            dropped = rng.random(len(kept)) < LABEL_DROP_RATE
            kept = [label for label, drop in zip(kept, dropped, strict=True) if not drop]
        lines.append(f"{path},{'|'.join(kept)}")
    return lines


def class_weights(parameters: Parameters) -> dict[str, float]:
    """A weight for each class that no count gives away: what a user's own priorities look like."""
    rng = np.random.default_rng((parameters.seed, len(_SPLIT_KEYS) + 1))
    weights = rng.lognormal(mean=0.0, sigma=0.5, size=len(classes()))
    return {key: round(float(weight), 4) for key, weight in zip(classes(), weights, strict=True)}


def generate(root: pathlib.Path, parameters: Parameters, num_workers: int) -> bool:
    """Writes the dataset; False where it was already there. Raises SyntheticError."""
    if _is_completed(root, parameters):
        return False
    for split in _SPLIT_KEYS:
        (root / "images" / split).mkdir(parents=True, exist_ok=True)
    _write_marker(root, parameters, completed=False)
    tasks = [
        (split, start, min(start + IMAGES_PER_TASK, parameters.num_images(split)))
        for split in _SPLIT_KEYS
        for start in range(0, parameters.num_images(split), IMAGES_PER_TASK)
    ]
    lines: dict[str, list[str]] = {split: ["image_path,labels"] for split in _SPLIT_KEYS}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        drawings = [pool.submit(write_task, str(root), parameters, *task) for task in tasks]
        progress = _Progress(parameters.num_train + parameters.num_eval)
        for (split, start, stop), drawing in zip(tasks, drawings, strict=True):
            lines[split] += drawing.result()
            progress.add(stop - start)
    for split, split_lines in lines.items():
        (root / f"{split}.csv").write_text("\n".join(split_lines) + "\n")
    names = tuple(key.replace("_", " ") for key in classes())
    labels.Vocabulary(classes(), names).write(root / "classes.tsv")
    weights = class_weights(parameters).items()
    (root / "class_weights.tsv").write_text(
        "class\tweight\n" + "".join(f"{key}\t{weight}\n" for key, weight in weights)
    )
    _write_marker(root, parameters, completed=True)
    return True


class _Progress:
    """One line on stderr, rewritten on a terminal, else a line every few seconds."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._start = self._last = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        is_last = self._done == self._total
        if not is_last and now - self._last < (0.2 if self._is_terminal else 2.0):
            return
        self._last = now
        rate = self._done / (now - self._start)
        line = f"drawn {self._done:,} of {self._total:,} images, {rate:,.0f} images/s"
        ending = "\r" if self._is_terminal and not is_last else "\n"
        print(line, end=ending, file=sys.stderr, flush=True)


def _is_completed(root: pathlib.Path, parameters: Parameters) -> bool:
    """Whether the dataset is there; raises SyntheticError where something else is."""
    marker = root / _MARKER
    if not marker.exists():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise SyntheticError(f"{root} exists and holds something else: choose a new folder")
        return False
    found = json.loads(marker.read_text())
    if found["parameters"] != parameters._asdict():
        raise SyntheticError(
            f"{root} holds a dataset with other parameters: {found['parameters']}. Received: "
            f"{parameters._asdict()}. Choose a new folder, or delete this one"
        )
    return found["completed"]


def _write_marker(root: pathlib.Path, parameters: Parameters, completed: bool) -> None:
    marker = {"parameters": parameters._asdict(), "completed": completed}
    temporary = root / (_MARKER + ".tmp")
    temporary.write_text(json.dumps(marker) + "\n")
    temporary.replace(root / _MARKER)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.synthetic",
        description="Draws a labelled image dataset: JPEGs, label files, a class list, weights.",
        epilog="example: python -m pipeline.synthetic --output=scenes --num_train=20000",
        allow_abbrev=False,
    )
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument("--num_train", type=int, default=20_000, help="training images (20000)")
    parser.add_argument("--num_eval", type=int, default=2_000, help="evaluation images (2000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other scenes (0)")
    parser.add_argument("--workers", type=int, help="processes (one a core)")
    args = parser.parse_args(argv)
    num_workers = num_cores() if args.workers is None else args.workers
    for flag, value, least in (
        ("num_train", args.num_train, 1),
        ("num_eval", args.num_eval, 1),
        ("seed", args.seed, 0),
        ("workers", num_workers, 1),
    ):
        if value < least:
            parser.error(f"--{flag} must be at least {least}. Received: {value}")
    root = pathlib.Path(args.output)
    try:
        parameters = Parameters(args.num_train, args.num_eval, args.seed)
        drawn = generate(root, parameters, num_workers)
    except (SyntheticError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(
        f"{'wrote' if drawn else 'found, already complete,'} {root}: {len(classes())} classes, "
        f"{args.num_train:,} training and {args.num_eval:,} evaluation images"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
