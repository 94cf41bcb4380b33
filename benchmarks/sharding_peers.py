"""What the job is measured against; each runs in a process of its own and prints a line of JSON.

    python -m benchmarks.sharding_peers codec|loop|tfds|rows|shuffle ...

`benchmarks.sharding` starts them.
"""

import argparse
import io
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline import images, schema, tfrecord

JPEG_QUALITY = 90
_ROWS_PER_GROUP = 100_000  # of the Parquet files
_NUM_LABELS, _LABELS_PER_ROW = 17_000, 9
_ROWS_PER_SHARD = 8_192  # as the job has by default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    peers = parser.add_subparsers(dest="peer", required=True)
    for name, (_, flags) in PEERS.items():
        peer = peers.add_parser(name)
        for flag, kind in flags.items():
            peer.add_argument(f"--{flag}", type=kind, required=True)
    arguments = vars(parser.parse_args())
    function, _ = PEERS[arguments.pop("peer")]
    print(json.dumps(function(**arguments)))


def our_codec(data: bytes, shorter_side: int, quality: int = JPEG_QUALITY) -> bytes:
    recipe = images.ImageRecipe(shorter_side=shorter_side, jpeg_quality=quality)
    return images.prepare(data, recipe).image


def plain_pillow(data: bytes, shorter_side: int, quality: int = JPEG_QUALITY) -> bytes:
    """What most would write: decode, orient, Lanczos, encode."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    scale = min(1.0, shorter_side / min(image.size))
    size = round(image.width * scale), round(image.height * scale)
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


CODECS: dict[str, Callable[..., bytes]] = {"ours": our_codec, "pillow": plain_pillow}


def codec(images: Path, count: int, shorter_side: int, rounds: int) -> dict[str, Any]:
    """CPU seconds an image of both codecs, by round, and how alike their images are."""
    files = [path.read_bytes() for path in _paths(images, 0, count)]
    seconds: dict[str, list[float]] = {name: [] for name in CODECS}
    for function in CODECS.values():  # what is done once, for each ratio of sizes, is not timed
        for data in files:
            function(data, shorter_side)
    for _ in range(rounds):
        for name, function in CODECS.items():
            start = time.process_time()
            for data in files:
                function(data, shorter_side)
            seconds[name].append((time.process_time() - start) / len(files))
    resized = [data for data in files if our_codec(data, shorter_side) != data]
    return {
        **seconds,
        "files": len(files),
        "resized": len(resized),
        # At the quality of the job, most of the difference is what two encodings round apart.
        **{
            f"psnr_at_{quality}": statistics.fmean(
                _psnr(*(function(data, shorter_side, quality) for function in CODECS.values()))
                for data in resized
            )
            for quality in (JPEG_QUALITY, 100)
        },
    }


def _psnr(jpeg: bytes, other: bytes) -> float:
    """dB; at most 60, so that images that are equal do not make the mean."""
    pixels, others = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
        for data in (jpeg, other)
    )
    error = float(np.mean((pixels - others) ** 2))
    return min(60.0, 10 * math.log10(255**2 / error)) if error else 60.0


def loop(images: Path, start: int, stop: int, shorter_side: int, output: Path) -> dict[str, float]:
    """The bare loop: read, prepare, encode, frame, write, into one file."""
    paths = _paths(images, start, stop)
    with open(output, "wb") as stream:
        for path in paths[:10]:  # what is done once is not timed
            our_codec(path.read_bytes(), shorter_side)
        cpu, wall = time.process_time(), time.monotonic()
        for path in paths:
            image = our_codec(path.read_bytes(), shorter_side)
            example = schema.Example(path.name, image, (3, 10, 17), (1.0,) * 3, ("",) * 3)
            stream.write(tfrecord.frame(schema.encode(example)))
        return {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall}


def _paths(images: Path, start: int, stop: int) -> list[Path]:
    return [images / f"{index:06d}.jpg" for index in range(start, stop)]


def tfds(images: Path, count: int, shorter_side: int, output: Path, codec: str) -> dict[str, int]:
    """A Beam builder as TFDS' own guide has it, on Beam's embedded runner."""
    import apache_beam as beam
    import tensorflow_datasets as tfds
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    prepare = CODECS[codec]
    with open(images / "rows.csv") as lines:
        rows = [line.strip().split(",") for line in itertools.islice(lines, 1, count + 1)]
    classes = sorted({label for _, labels in rows for label in labels.split("|")})

    class Photographs(tfds.core.GeneratorBasedBuilder):
        """Photographs with labels."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=classes)),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            def example(row):
                name, labels = row
                image = prepare((images / name).read_bytes(), shorter_side)
                return name, {"image": io.BytesIO(image), "labels": labels.split("|")}

            return beam.Create(rows) | beam.Map(example)

    builder = Photographs(data_dir=output)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            beam_runner=FnApiRunner(), beam_options=PipelineOptions([])
        )
    )
    return {"examples": builder.info.splits["train"].num_examples}


def rows(count: int, output: Path) -> dict[str, int]:
    """Writes rows as Open Images has them, of 9 labels: an id of 16 digits, a path, a list."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    names = pa.array([f"/m/0{number:05x}" for number in range(_NUM_LABELS)])
    schema = pa.schema(
        {"image_id": pa.string(), "image_path": pa.string(), "labels": pa.list_(pa.string())}
    )
    temporary = output.with_suffix(".tmp")
    with pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, count, _ROWS_PER_GROUP):
            size = min(_ROWS_PER_GROUP, count - start)
            digits = rng.bytes(8 * size).hex()
            ids = pa.array([digits[16 * row : 16 * row + 16] for row in range(size)])
            paths = pc.binary_join_element_wise("train/", ids, ".jpg", "")
            drawn = (_NUM_LABELS * rng.random(_LABELS_PER_ROW * size) ** 3).astype(np.int64)
            offsets = pa.array(np.arange(size + 1, dtype=np.int32) * _LABELS_PER_ROW)
            labels = pa.ListArray.from_arrays(offsets, names.take(pa.array(drawn)))
            writer.write_table(pa.table([ids, paths, labels], schema=schema))
    with open(output.with_suffix(".classes.tsv"), "w") as stream:
        stream.write("\n".join(["class", *names.to_pylist()]) + "\n")
    os.replace(temporary, output)
    return {"bytes": output.stat().st_size}


def shuffle(labels: Path) -> dict[str, int]:
    """Rows through the job's reader and the embedded runner's grouping, counted behind it."""
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipeline import job, local_runner, merging, sources
    from pipeline.beam_options import DEFAULT_RUNNER
    from pipeline.recipe import Selection
    from pipeline.sources.source import SourceOptions

    source = sources.make(SourceOptions("manifest", images=".", labels=str(labels)))
    inventory = source.inventory()
    num_groups = -(-inventory.num_rows // _ROWS_PER_SHARD)

    def count(group: tuple[int, Iterable[bytes]]) -> int:
        return sum(1 for _ in merging.unpacked(group[1]))

    def check(total: int) -> None:
        if total != inventory.num_rows:
            raise ValueError(f"{total:,} rows came out of {inventory.num_rows:,}")

    with local_runner.new_pipeline(PipelineOptions([f"--runner={DEFAULT_RUNNER}"])) as pipeline:
        (
            pipeline
            | beam.Create(inventory.parts)
            | beam.ParDo(job.ReadRows(source, Selection(), num_groups, ""))
            | beam.GroupByKey()
            | beam.Map(count)
            | beam.CombineGlobally(sum)
            | beam.Map(check)
        )
    return {"rows": inventory.num_rows, "groups": num_groups}


PEERS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, type]]] = {
    "codec": (codec, {"images": Path, "count": int, "shorter_side": int, "rounds": int}),
    "loop": (
        loop,
        {"images": Path, "start": int, "stop": int, "shorter_side": int, "output": Path},
    ),
    "tfds": (
        tfds,
        {"images": Path, "count": int, "shorter_side": int, "output": Path, "codec": str},
    ),
    "rows": (rows, {"count": int, "output": Path}),
    "shuffle": (shuffle, {"labels": Path}),
}


if __name__ == "__main__":
    main()
