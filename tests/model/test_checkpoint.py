"""Checkpoints: whole or absent, and every kind of damage refused by name."""

import json
import os
import shutil

import numpy as np
import pytest

from model import checkpoint
from model.checkpoint import CheckpointError


def _state(step, value=1.0):
    tensors = {"conv/kernel": np.full((2, 3), value, np.float32)}
    return {
        "step": step,
        "samples": step * 32,
        "seconds": 12.5,
        "parameters": {**tensors, "bn/moving_mean": np.zeros(3, np.float32)},
        "ema": {**tensors, "bn/moving_mean": np.ones(3, np.float32)},
        "mean_square": {"conv/kernel": np.full((2, 3), value + 1, np.float32)},
        "momentum": {"conv/kernel": np.full((2, 3), value + 2, np.float32)},
    }


def _save(run, step, keep=5):
    return checkpoint.save(run, _state(step, value=float(step)), "classes", keep)


def _ignore(message):
    del message


def test_what_is_saved_is_what_is_loaded(tmp_path):
    saved = _save(tmp_path, 7)
    loaded = checkpoint.load(saved.path)
    expected = _state(7, value=7.0)
    assert loaded["step"] == 7
    assert loaded["samples"] == 224
    assert loaded["seconds"] == 12.5
    for kind in ("parameters", "ema", "mean_square", "momentum"):
        assert loaded[kind].keys() == expected[kind].keys()
        for path, value in expected[kind].items():
            np.testing.assert_array_equal(loaded[kind][path], value)


def test_averages_and_raw_parameters_load_by_themselves(tmp_path):
    path = _save(tmp_path, 1).path
    np.testing.assert_array_equal(checkpoint.load(path, "ema")["bn/moving_mean"], np.ones(3))
    np.testing.assert_array_equal(checkpoint.load(path, "raw")["bn/moving_mean"], np.zeros(3))


def test_checkpoints_are_listed_by_step_and_only_the_newest_are_kept(tmp_path):
    for step in (5, 100, 20, 300):
        _save(tmp_path, step, keep=3)
    assert [c.step for c in checkpoint.list_checkpoints(tmp_path)] == [20, 100, 300]


def test_a_folder_without_checkpoints_lists_none(tmp_path):
    assert checkpoint.list_checkpoints(tmp_path / "absent") == []
    assert checkpoint.load_newest(tmp_path, _ignore) is None


def test_an_unfinished_checkpoint_is_not_listed_and_is_swept_by_the_next(tmp_path):
    leftover = tmp_path / "checkpoints" / "step-00000003.tmp-1234"
    leftover.mkdir(parents=True)
    (leftover / "state.json").write_text("{}")
    assert checkpoint.list_checkpoints(tmp_path) == []
    _save(tmp_path, 4)
    assert not leftover.exists()


@pytest.mark.parametrize("name", ["ema", "parameters", "slots"])
def test_a_truncated_file_is_refused_by_name_and_the_checkpoint_before_is_used(tmp_path, name):
    _save(tmp_path, 1)
    newest = _save(tmp_path, 2)
    file = tmp_path / "checkpoints" / "step-00000002" / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=f"{name}.safetensors is damaged"):
        checkpoint.load(newest.path)
    messages = []
    assert checkpoint.load_newest(tmp_path, messages.append)["step"] == 1
    assert "step-00000002" in messages[0]
    # The step can be reached, and saved, again.
    assert _save(tmp_path, 2, keep=1) == newest
    assert checkpoint.load_newest(tmp_path, pytest.fail)["step"] == 2


def test_what_a_killed_process_of_the_same_pid_left_does_not_hinder_the_next(tmp_path):
    leftover = tmp_path / "checkpoints" / f"step-00000003.tmp-{os.getpid()}"
    leftover.mkdir(parents=True)
    (leftover / "ema.safetensors").write_bytes(b"half")
    assert checkpoint.load(_save(tmp_path, 3).path)["step"] == 3


def test_what_is_left_of_a_deleted_checkpoint_does_not_hinder_the_next(tmp_path):
    leftover = tmp_path / "checkpoints" / "step-00000003"
    leftover.mkdir(parents=True)
    (leftover / "ema.safetensors").write_bytes(b"old")
    assert checkpoint.load(_save(tmp_path, 3).path)["step"] == 3


def test_one_flipped_bit_is_noticed(tmp_path):
    path = _save(tmp_path, 1).path
    file = tmp_path / "checkpoints" / "step-00000001" / "ema.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(path, "ema")


def test_a_foreign_folder_is_refused(tmp_path):
    folder = tmp_path / "checkpoints" / "step-00000009"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"step": 9}))
    with pytest.raises(CheckpointError, match="no checkpoint of this program"):
        checkpoint.load(folder)
    state = {"format_version": 1, "step": 9, "samples": 9}
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="has no seconds, class_list_sha256, sha256"):
        checkpoint.load(folder)
    with pytest.raises(CheckpointError, match="None of the 1 checkpoints"):
        checkpoint.load_newest(tmp_path, _ignore)


def test_a_checkpoint_deleted_while_it_is_read_is_an_error_in_words(tmp_path):
    path = _save(tmp_path, 1).path
    shutil.rmtree(path)
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        checkpoint.load(path, "ema")
