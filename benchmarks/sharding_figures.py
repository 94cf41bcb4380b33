"""The figures of `benchmarks.sharding`: how each is measured, and what it should be."""

import itertools
import json
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import img2dataset
from benchmarks.usage import BenchmarkError, Usage, run

SHORTER_SIDE = 299
_KNOWN_NUMBERS = {  # at scale 1
    "images": 9_600, "few_images": 960, "memory_images": 10_000, "few_memory_images": 1_000,
    "rows": 10_000_000, "few_rows": 100_000,
}  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A figure beside its target."""

    figure: str
    value: float
    target: float
    unit: str = "x"
    is_limit: bool = False  # the value must stay below the target, not reach it
    detail: str = ""

    @property
    def is_met(self) -> bool:
        return self.value <= self.target if self.is_limit else self.value >= self.target

    def verdict(self) -> str:
        return (
            "met" if self.is_met else f"missed by {abs(self.value - self.target):.3g} {self.unit}"
        )


@dataclass(frozen=True)
class Bench:
    """Where and at what size is measured."""

    folder: Path
    rounds: int
    scale: float
    num_photographs: int  # different ones

    @property
    def images(self) -> Path:
        return self.folder / "images"

    def number(self, what: str) -> int:
        return max(12, round(_KNOWN_NUMBERS[what] * self.scale))


def peer(name: str, bench: Bench, **flags: Any) -> tuple[Usage, dict[str, Any]]:
    """(what a peer took, what it says)."""
    command = [sys.executable, "-m", "benchmarks.sharding_peers", name]
    command += [f"--{flag}={value}" for flag, value in flags.items()]
    usage, line = run(command, bench.folder / f"{name}.log", TF_CPP_MIN_LOG_LEVEL="3")
    return usage, json.loads(line)


def take_photographs(folder: Path, source: Path | None, scale: float) -> dict[str, Any]:
    output = folder / "images"
    shutil.rmtree(output, ignore_errors=True)
    count = max(12, round(max(_KNOWN_NUMBERS["images"], _KNOWN_NUMBERS["memory_images"]) * scale))
    command = [sys.executable, "-m", "benchmarks.photographs"]
    command += [f"--output={output}", f"--count={count}"]
    command += [f"--images={source.resolve()}"] if source else []
    return json.loads(run(command, folder / "photographs.log")[1])


def beam_runner(bench: Bench, labels: Path, classes: Path, *flags: str) -> Usage:
    """The job's command, into a new folder `dataset`."""
    output = bench.folder / "dataset"
    shutil.rmtree(output, ignore_errors=True)
    command = [
        sys.executable, "beam_runner.py", "--source=manifest", f"--labels={labels}",
        f"--images={bench.images}", f"--output={output}", "--split=train", f"--classes={classes}",
        *flags,
    ]  # fmt: skip
    return run(command, bench.folder / "beam_runner.log")[0]


def job(bench: Bench, count: int, workers: int = 1) -> Usage:
    """The job over the first photographs."""
    labels = bench.folder / f"first_{count}.csv"
    with open(bench.images / "rows.csv") as rows:
        labels.write_text("".join(next(rows) for _ in range(count + 1)))
    usage = beam_runner(
        bench, labels, bench.images / "classes.tsv",
        f"--shorter_side={SHORTER_SIDE}", f"--workers={workers}",
    )  # fmt: skip
    marker = json.loads((bench.folder / "dataset" / "train.completed.json").read_text())
    if marker["num_examples"] != count:
        raise BenchmarkError(f"the job wrote {marker['num_examples']} of {count} images")
    return usage


def loop(bench: Bench, start: int, stop: int) -> dict[str, float]:
    """CPU and wall seconds of the bare loop over photographs."""
    output = bench.folder / f"loop_{start}.tfrecord"
    return peer(
        "loop", bench, images=bench.images, start=start, stop=stop, shorter_side=SHORTER_SIDE,
        output=output,
    )[1]  # fmt: skip


# What is measured


def measure_codec(bench: Bench) -> list[Result]:
    count = min(bench.num_photographs, bench.number("images"))
    _, found = peer(
        "codec", bench, images=bench.images, count=count, shorter_side=SHORTER_SIDE,
        rounds=bench.rounds,
    )  # fmt: skip
    ratio = statistics.median(p / o for p, o in zip(found["pillow"], found["ours"], strict=True))
    ours, pillow = (statistics.median(found[name]) for name in ("ours", "pillow"))
    sizes = f"{found['files']} photographs, {found['resized']} of them above {SHORTER_SIDE} pixels"
    return [
        Result(
            "codec: recipe against plain Pillow", ratio, 3.5,
            detail=f"{1 / ours:,.0f} and {1 / pillow:,.0f} images/s/core; {sizes}",
        ),
        Result(
            "codec: mean PSNR to plain Pillow's files", found["psnr_at_90"], 41, "dB",
            detail="both at quality 90: mostly what two encodings round apart",
        ),
        Result(
            "codec: mean PSNR to plain Pillow's, both at quality 100", found["psnr_at_100"], 41,
            "dB", detail="decoding and resizing alone",
        ),
    ]  # fmt: skip


def measure_job(bench: Bench) -> list[Result]:
    few, many = bench.number("few_images"), bench.number("images")
    ratios = []
    walls = []
    rates = []
    for _ in range(bench.rounds):
        bare = loop(bench, few, many)
        small, large = (job(bench, count) for count in (few, many))
        ratios.append(bare["cpu"] / (large.cpu - small.cpu))
        walls.append(bare["wall"] / (large.wall - small.wall))
        rates.append((many - few) / (large.cpu - small.cpu))
    return [
        Result(
            "job: steady images/s/core against the bare loop", statistics.median(ratios), 0.95,
            detail=f"{statistics.median(rates):,.0f} images/s/core; by wall time "
            f"{statistics.median(walls):.2f}; rounds {_texts(ratios)}",
        )
    ]  # fmt: skip


def measure_img2dataset(bench: Bench) -> list[Result]:
    command = img2dataset.install(bench.folder / "img2dataset")

    def usage(count: int, workers: int, format: str, threads: int) -> Usage:
        images = [bench.images / f"{index:06d}.jpg" for index in range(count)]
        output = bench.folder / "img2dataset_output"
        return img2dataset.download(command, images, output, SHORTER_SIDE, workers, format, threads)

    many = bench.number("images")
    trials = itertools.product(img2dataset.FORMATS, (2, 16, 256))
    format, threads = min(trials, key=lambda trial: usage(many // 4, 1, *trial).wall)
    results = []
    for workers in (1, 2):
        turns = [
            (usage(many, workers, format, threads), job(bench, many, workers))
            for _ in range(bench.rounds)
        ]
        theirs, ours = zip(*turns, strict=True)
        their_wall, our_wall = (statistics.median(u.wall for u in of) for of in (theirs, ours))
        results.append(
            Result(
                f"img2dataset: end to end, {workers} process{'es' if workers > 1 else ''} each",
                _median_ratio(theirs, ours, "wall"),
                4,
                detail=f"{their_wall:.1f} s ({format}, {threads} threads), ours {our_wall:.1f} s "
                f"for {many:,} images, start-up included; by CPU seconds "
                f"{_median_ratio(theirs, ours, 'cpu'):.1f} x",
            )
        )
    return results


def _median_ratio(theirs: Sequence[Usage], ours: Sequence[Usage], field: str) -> float:
    pairs = zip(theirs, ours, strict=True)
    return statistics.median(getattr(their, field) / getattr(our, field) for their, our in pairs)


def measure_tfds(bench: Bench) -> list[Result]:
    many = bench.number("images")
    output = bench.folder / "tfds"

    def usage(codec: str) -> Usage:
        shutil.rmtree(output, ignore_errors=True)
        found, said = peer(
            "tfds", bench, images=bench.images, count=many, shorter_side=SHORTER_SIDE,
            output=output, codec=codec,
        )  # fmt: skip
        if said["examples"] != many:
            raise BenchmarkError(f"TFDS wrote {said['examples']} of {many} images")
        return found

    plain, with_our_codec, ours = [], [], []
    for _ in range(bench.rounds):
        plain.append(usage("pillow"))
        with_our_codec.append(usage("ours"))
        ours.append(job(bench, many))
    wall = statistics.median(usage.wall for usage in ours)
    peak, their_peak = (statistics.median(u.peak for u in of) for of in (ours, plain))
    return [
        Result(
            "TFDS Beam builder with Pillow: end to end, 1 process",
            _median_ratio(plain, ours, "wall"),
            1.3,
            detail=f"ours {wall:.1f} s for {many:,} images, start-up included; a builder with our "
            f"codec in it: {_median_ratio(with_our_codec, ours, 'wall'):.2f} x",
        ),
        Result(
            "TFDS Beam builder: its peak memory against ours",
            _median_ratio(plain, ours, "peak"),
            3,
            detail=f"{their_peak / 1e6:,.0f} MB, ours {peak / 1e6:,.0f} MB",
        ),
    ]


def measure_workers(bench: Bench) -> list[Result]:
    few, many = bench.number("few_images"), bench.number("images")
    ratios = []
    for _ in range(bench.rounds):
        one, two = (
            job(bench, many, workers).wall - job(bench, few, workers).wall for workers in (1, 2)
        )
        ratios.append(one / two)
    loops = statistics.median(_two_loops(bench) for _ in range(bench.rounds))
    return [
        Result(
            "workers: two processes against one, start-up apart", statistics.median(ratios), 1.8,
            detail=f"two bare loops side by side against one: {loops:.2f} x; "
            f"rounds {_texts(ratios)}",
        )
    ]  # fmt: skip


def _two_loops(bench: Bench) -> float:
    """What the machine gives: images/s of two bare loops at once, over that of one."""
    many = bench.number("images") // 2
    alone = loop(bench, 0, many)["wall"]
    with ThreadPoolExecutor(2) as pool:
        halves = ((0, many), (many, 2 * many))
        both = list(pool.map(lambda half: loop(bench, *half)["wall"], halves))
    return 2 * alone / max(both)


def measure_memory(bench: Bench) -> list[Result]:
    few, many = (bench.number(what) for what in ("few_memory_images", "memory_images"))
    return [
        _growth(f"memory: growth from {few:,} to {many:,} images{which}", *peaks)
        for workers, which in ((1, ""), (2, ", 2 workers"))
        for peaks in [[job(bench, count, workers).peak for count in (few, many)]]
    ]


def measure_plan(bench: Bench) -> list[Result]:
    few, many = (bench.number(what) for what in ("few_rows", "rows"))
    small, large = (
        beam_runner(bench, path, path.with_suffix(".classes.tsv"), "--plan_only")
        for path in (rows(bench, few), rows(bench, many))
    )
    cpu, wall = large.cpu - small.cpu, large.wall - small.wall
    return [
        Result(
            f"plan: Parquet rows/s/core, {many:,} rows", (many - few) / cpu, 300_000, "",
            detail=f"{many:,} rows in {large.wall:.1f} s; {(many - few) / wall:,.0f} rows/s by "
            "wall time",
        ),
        _growth(f"plan: memory growth from {few:,} to {many:,} rows", small.peak, large.peak),
    ]  # fmt: skip


def measure_shuffle(bench: Bench) -> list[Result]:
    many = bench.number("rows")
    usage, _ = peer("shuffle", bench, labels=rows(bench, many))
    return [
        Result(
            f"shuffle: peak memory of {many:,} rows, embedded runner", usage.peak / 1e9, 4, "GB",
            is_limit=True, detail=f"{usage.wall:.1f} s, {many / usage.cpu:,.0f} rows/s/core",
        )
    ]  # fmt: skip


def rows(bench: Bench, count: int) -> Path:
    """A Parquet file of rows."""
    path = bench.folder / f"{count}_rows.parquet"
    if not path.exists():
        peer("rows", bench, count=count, output=path)
    return path


def _growth(figure: str, small: int, large: int) -> Result:
    detail = f"{small / 1e6:,.0f} MB and {large / 1e6:,.0f} MB"
    return Result(figure, 100 * (large / small - 1), 10, "%", is_limit=True, detail=detail)


def _texts(numbers: list[float]) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


MEASUREMENTS: dict[str, Callable[[Bench], list[Result]]] = {
    "codec": measure_codec,
    "job": measure_job,
    "img2dataset": measure_img2dataset,
    "tfds": measure_tfds,
    "workers": measure_workers,
    "memory": measure_memory,
    "plan": measure_plan,
    "shuffle": measure_shuffle,
}
