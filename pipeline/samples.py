"""A few images and dead letters of a split, for people to look at.

Shards are in the order of a hash, so that their first records are a random sample. What cannot be
read or drawn is passed over: looking at a split never fails.
"""

import base64
import csv
import io
import itertools
from collections.abc import Iterator
from typing import Any

from PIL import Image

from pipeline import images, labels, metadata, schema, storage, tfrecord
from pipeline.recipe import ImageRecipe

_SHARDS = 4  # that are opened for images
_TRIES = 4  # records looked at for each image that is wanted
_SIDE = 160  # pixels of a thumbnail, at most
_RECIPE = ImageRecipe(shorter_side=_SIDE)
_QUALITY = 80
_DEAD_LETTER_BYTES = 4 << 20  # of the file that are looked through: it may be huge
_DEAD_LETTERS = 3  # of each reason
_COLUMNS = ("image_path", "detail", "place")


def thumbnails(
    output: str, split: str, num_shards: int, vocabulary: labels.Vocabulary, count: int
) -> list[dict[str, Any]]:
    """The first images of a split, each with its id, a small JPEG in base64, and its labels."""
    paths = [
        storage.join(output, metadata.shard_file(split, shard, num_shards))
        for shard in range(min(num_shards, _SHARDS))
    ]
    records = itertools.chain.from_iterable(map(_examples, paths))
    drawn = (
        _thumbnail(example, vocabulary.names)
        for example in itertools.islice(records, _TRIES * count)
    )
    return list(itertools.islice((found for found in drawn if found is not None), count))


def dead_letters(output: str, split: str) -> dict[str, list[dict[str, str]]]:
    """Rows of the dead-letter file by reason, a few of each that its beginning has."""
    found: dict[str, list[dict[str, str]]] = {}
    try:
        with storage.open_to_read(
            storage.join(output, metadata.dead_letters_file(split))
        ) as stream:
            data = stream.read(_DEAD_LETTER_BYTES)
        whole_lines = data if len(data) < _DEAD_LETTER_BYTES else data[: data.rfind(b"\n") + 1]
        text = io.StringIO(whole_lines.decode("utf-8", "replace"), newline="")
        for row in csv.DictReader(text, restkey="", restval=""):
            letters = found.setdefault(row.get("reason", ""), [])
            if len(letters) < _DEAD_LETTERS:
                letters.append({name: row.get(name, "") for name in _COLUMNS})
    except (OSError, csv.Error):
        pass  # what was read until there is enough to look at
    return found


def _examples(path: str) -> Iterator[schema.Example]:
    """The examples of a shard up to the first damage."""
    try:
        with storage.open_to_read(path) as stream:
            for record in tfrecord.read(stream):
                yield schema.decode(record)
    except (OSError, tfrecord.TFRecordError, schema.SchemaError):
        return


def _thumbnail(example: schema.Example, names: tuple[str, ...]) -> dict[str, Any] | None:
    def name_of(class_id: int) -> str:
        return names[class_id] if class_id < len(names) else f"class {class_id}"

    try:
        prepared = images.prepare(example.image, _RECIPE).image
        image = Image.open(io.BytesIO(prepared)).convert("RGB")
        image.thumbnail((_SIDE, _SIDE))  # its longer side, too
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=_QUALITY)
    except (images.ImageError, OSError, ValueError):
        return None
    return {
        "image_id": example.image_id,
        "width": image.width,
        "height": image.height,
        "jpeg": base64.b64encode(jpeg.getvalue()).decode(),
        "labels": [
            (name_of(class_id), "" if confidence > 0.995 else f"{confidence:.0%}")
            for class_id, confidence in zip(example.labels, example.confidences, strict=True)
        ],
        "negatives": [name_of(class_id) for class_id in example.negatives],
    }
