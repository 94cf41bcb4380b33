"""What a run's folder says of the versions it was trained with."""

import dataclasses
import json
import platform

import keras
import numpy as np
import tensorflow as tf

from model import versions
from pipeline import metadata

SPLIT = metadata.Split("train", 1, ("a",), (1,), np.ones(1, np.int64), "first")


def _lines(run):
    return [json.loads(line) for line in (run / "versions.jsonl").read_text().splitlines()]


def test_every_start_adds_a_line_and_says_what_differs_from_the_one_before(tmp_path, monkeypatch):
    said = []
    versions.add(tmp_path, "shards", SPLIT, said.append)
    versions.add(tmp_path, "shards", SPLIT, said.append)
    assert said == []
    monkeypatch.setattr(versions, "installed", lambda: {"python": "3.99", "keras": "4.0"})
    other = dataclasses.replace(SPLIT, fingerprint="second")
    versions.add(tmp_path, "shards", other, said.append)
    (line,) = said
    assert line == (
        "This start differs from the one before: "
        f"python 3.99, was {platform.python_version()}; keras 4.0, was {keras.__version__}; "
        "data_fingerprint second, was first"
    )
    first, _, last = _lines(tmp_path)
    assert first["tensorflow"] == tf.__version__
    assert first["numpy"] == np.__version__
    assert first["xception-at-scale"]
    assert (first["data"], first["data_fingerprint"]) == ("shards", "first")
    assert (last["keras"], last["data_fingerprint"]) == ("4.0", "second")
    assert versions.newest(tmp_path) == last


def test_the_commit_is_that_of_this_code_and_none_where_it_is_in_no_repository(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(versions, "_ROOT", tmp_path)
    assert versions.git_commit() is None
    (tmp_path / ".git").write_text("gitdir: nowhere")
    assert versions.git_commit() is None
