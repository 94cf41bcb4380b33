"""TensorFlow starts quietly, and with the same threads, in every test."""

import pytest

from benchmarks import faults, process_faults
from model import quiet

quiet.start_tensorflow()

OFTEN = ("--set=train.checkpoint_every=1", "--set=train.log_every=0.5")


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """A dataset of 240 training and 60 evaluation scenes, made by the pipeline's commands."""
    return faults.make_shards(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def start(shards, tmp_path):
    launches = []

    def start(*more, **options):
        launches.append(process_faults.Training(shards, tmp_path / "run", *OFTEN, *more, **options))
        return launches[-1]

    yield start
    for launch in launches:
        launch.close()
