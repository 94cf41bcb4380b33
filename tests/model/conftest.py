"""TensorFlow starts quietly, and with the same threads, in every test."""

import subprocess
import sys

import pytest
from launches import Launch

from model import quiet

quiet.start_tensorflow()


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A dataset of 240 training and 60 evaluation scenes, made by the pipeline's commands."""
    folder = tmp_path_factory.mktemp("dataset")
    scenes, output = folder / "scenes", folder / "shards"
    _run("-m", "pipeline.synthetic", f"--output={scenes}", "--num_train=240", "--num_eval=60")
    for split in ("train", "eval"):
        _run(
            "beam_runner.py",
            "--source=manifest",
            f"--labels={scenes}/{split}.csv",
            f"--images={scenes}",
            f"--classes={scenes}/classes.tsv",
            f"--output={output}",
            f"--split={split}",
            "--num_shards=3",
        )
    return output


@pytest.fixture
def start(shards, tmp_path):
    launches = []

    def start(*more, **options):
        launches.append(Launch(shards, tmp_path / "run", *more, **options))
        return launches[-1]

    yield start
    for launch in launches:
        launch.close()


def _run(*arguments):
    subprocess.run([sys.executable, *arguments], check=True, timeout=120)
