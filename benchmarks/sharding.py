"""How fast and how large the sharding job is, with its peers in the same run.

    python -m benchmarks.sharding [--images=photos] [--output=folder] [--only=codec,job,...]

Without --images it draws its photographs. Each measurement is a process of its own (or several),
so that peak memory is that of what is measured. Rates are by CPU seconds, with all threads and
child processes; wall time stands beside them. Where something takes turns with a peer, the median
of the rounds is printed. "Start-up apart" is a large run less a small one.

img2dataset is installed below the output folder; the fastest of its output formats is taken.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.sharding_figures import MEASUREMENTS, Bench, Result, take_photographs
from benchmarks.usage import BenchmarkError
from model.launch import processes


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where something could not be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sharding",
        description=__doc__.splitlines()[0],
        epilog="example: python -m benchmarks.sharding --images=photos --only=codec,job",
    )
    parser.add_argument("--images", type=Path, help="folder of photographs (draws some)")
    parser.add_argument("--output", type=Path, help="folder for all files (a temporary one)")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="comma-separated (all)")
    parser.add_argument("--rounds", type=int, default=3, help="of what takes turns (3)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of all numbers of images and rows"
    )
    options = parser.parse_args(argv)
    names = options.only.split(",")
    if unknown := set(names) - set(MEASUREMENTS):
        parser.error(f"--only has {sorted(unknown)}; known are {', '.join(MEASUREMENTS)}")
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds must be at least 1, and --scale above 0")
    if options.images and not options.images.is_dir():
        parser.error(f"--images={options.images}: no such folder")
    processes.raise_interrupt_on_sigterm()
    try:
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            return measure(options, names, options.output.resolve())
        with tempfile.TemporaryDirectory() as folder:
            return measure(options, names, Path(folder).resolve())
    except KeyboardInterrupt:
        return 130


def measure(options: argparse.Namespace, names: list[str], folder: Path) -> int:
    """Measures what is named, prints a line a figure, and writes sharding.json."""
    try:
        photographs = take_photographs(folder, options.images, options.scale)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    bench = Bench(folder, options.rounds, options.scale, photographs["photographs"])
    about = {"photographs": photographs, "machine": machine(), "scale": options.scale}
    print(json.dumps(about))
    print(f"\n{'':60}{'target':>12}{'measured':>12}")
    results = []
    failures = {}
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            for result in MEASUREMENTS[name](bench):
                results.append(result)
                show(result)
        except BenchmarkError as error:
            failures[name] = str(error)
            print(f"{name}: not measured: {error}", flush=True)
    report = {
        **about,
        "results": [{**asdict(result), "is_met": result.is_met} for result in results],
        "failures": failures,
    }
    (folder / "sharding.json").write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failures else 0


def show(result: Result) -> None:
    sign = "≤" if result.is_limit else "≥"
    number = f"{result.value:,.0f}" if result.value >= 1000 else f"{result.value:.3g}"
    target = f"{sign} {result.target:,g} {result.unit}"
    measured = f"{number} {result.unit}"
    print(f"{result.figure:60}{target:>12}{measured:>12}  {result.verdict()}")
    if result.detail:
        print(f"    {result.detail}")
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    packages = ("apache-beam", "pillow", "simplejpeg", "opencv-python-headless", "pyarrow")
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
        "tensorflow-datasets": importlib.metadata.version("tensorflow-datasets"),
    }


if __name__ == "__main__":
    sys.exit(main())
