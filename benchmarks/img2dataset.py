"""img2dataset, a peer of `benchmarks.sharding`: its installation, and a run of it.

It gets an environment of its own, since its dependencies are not ours.
"""

import csv
import json
import math
import shutil
import sys
from pathlib import Path

from benchmarks.usage import BenchmarkError, Usage, run

RELEASE = "img2dataset==1.47.0"
# TFRecord is left out: it needs tensorflow-io, which has no release for today's TensorFlow.
FORMATS = ("webdataset", "parquet", "files")


def install(folder: Path) -> Path:
    """The command, installed into `folder` if it is not there."""
    command = folder / "bin" / "img2dataset"
    if command.exists():
        return command
    if sys.version_info >= (3, 13):
        raise BenchmarkError(f"{RELEASE} needs Python 3.12 or older")
    python = str(folder / "bin" / "python")
    log = folder.with_suffix(".install.log")
    run([sys.executable, "-m", "venv", str(folder)], log)
    if uv := shutil.which("uv"):
        run([uv, "pip", "install", "--quiet", f"--python={python}", RELEASE], log)
    else:
        run([python, "-m", "pip", "install", "--quiet", RELEASE], log)
    return command


def download(
    command: Path,
    images: list[Path],
    output: Path,
    shorter_side: int,
    num_processes: int,
    format: str,
    num_threads: int,
) -> Usage:
    """What it takes to bring the images to a size, into one shard a process.

    Its columns of exif and hashes are switched off.
    """
    shutil.rmtree(output, ignore_errors=True)
    urls = output.with_suffix(".csv")
    with open(urls, "w", newline="") as file:
        csv.writer(file).writerows([["url"], *([path.as_uri()] for path in images)])
    flags = {
        "url_list": urls, "input_format": "csv", "url_col": "url", "output_folder": output,
        "output_format": format, "processes_count": num_processes, "thread_count": num_threads,
        "image_size": shorter_side, "resize_mode": "keep_ratio", "resize_only_if_bigger": True,
        "encode_quality": 90, "number_sample_per_shard": math.ceil(len(images) / num_processes),
        "compute_hash": None, "extract_exif": False,
    }  # fmt: skip
    usage, _ = run(
        [str(command), *(f"--{flag}={value}" for flag, value in flags.items())],
        output.with_suffix(".log"),
        NO_ALBUMENTATIONS_UPDATE="1",  # it would ask the network for a newer version
    )
    stats = [json.loads(path.read_text()) for path in output.glob("*_stats.json")]
    successes = sum(shard["successes"] for shard in stats)
    if successes != len(images):
        raise BenchmarkError(f"img2dataset wrote {successes} of {len(images)} images")
    return usage
