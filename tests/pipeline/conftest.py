"""A folder to run the job in, fresh for each test."""

import pytest
from workplace import Workplace


@pytest.fixture
def workplace(tmp_path):
    return Workplace(tmp_path)
