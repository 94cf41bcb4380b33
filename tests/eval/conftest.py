"""A run with two checkpoints and a dataset to evaluate them on, fresh for each test."""

import json
import os
import shutil

import browser
import numpy as np
import pytest
from tiny_run import CLASSES, STEPS, TINY, save_checkpoint, write_dataset

from model import quiet

quiet.start_tensorflow()


@pytest.fixture(scope="session")
def network():
    """The network of the run; made once, as TensorFlow takes seconds to start."""
    from model import config, zoo

    return zoo.build(config.load_preset("demo", TINY), len(CLASSES))


@pytest.fixture(scope="session")
def _made_once(network, tmp_path_factory):
    from model import config, run_folder

    folder = tmp_path_factory.mktemp("evaluated")
    write_dataset(folder / "data")
    run_dir = folder / "run"
    counts = np.array([50, 30, 20, 10])
    run_folder.write(run_dir, config.load_preset("demo", TINY), CLASSES, counts)
    for step in STEPS:
        save_checkpoint(run_dir, network, step)
    metrics = [{"step": step, "samples": 32 * step, "train/loss": 5.0 / step} for step in (5, 15)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    return folder


@pytest.fixture
def folder(_made_once, tmp_path):
    """A copy of `data` and `run` that a test may break."""
    shutil.copytree(_made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    if missing := browser.missing():
        end = pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip  # .ci/run sets it
        end(f"no {' and no '.join(missing)}: apt-get install chromium chromium-driver")
    with browser.opened(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
