"""Checkpoints: whole or absent, and every kind of damage refused by name."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from model import checkpoint
from model import config as config_module
from model.checkpoint import CheckpointError, UnreachableError
from pipeline.labels import Vocabulary

CLASSES = Vocabulary(("cat", "dog"), ("Cat", "Dog"))


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


def _config(**train):
    return config_module.from_dict({"train": train})


def _save(run, step, vocabulary=CLASSES, config=None, **train):
    state = {**_state(step, value=float(step)), "seconds": 60.0 * step}
    return checkpoint.save(run, state, config or _config(**train), vocabulary)


def _load_newest(run, report):
    return checkpoint.load_newest(run, _config(), CLASSES, report)


def _ignore(message):
    del message


def test_what_is_saved_is_what_is_loaded(tmp_path):
    saved = _save(tmp_path, 7)
    loaded = checkpoint.load(saved.path)
    expected = _state(7, value=7.0)
    assert loaded["step"] == 7
    assert loaded["samples"] == 224
    assert loaded["seconds"] == 420.0
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
        _save(tmp_path, step, keep_checkpoints=3)
    assert [c.step for c in checkpoint.list_checkpoints(tmp_path)] == [20, 100, 300]


def test_one_checkpoint_of_each_hour_of_training_is_kept_beside_the_newest(tmp_path):
    for minute in range(50, 260, 30):  # 50, 80, 110, 140, 170, 200, 230
        _save(tmp_path, minute, keep_checkpoints=2, keep_hourly=1.0)
    kept = [c.step for c in checkpoint.list_checkpoints(tmp_path)]
    assert kept == [50, 80, 140, 200, 230]  # the first of hours 0 to 3; 200 and 230 are new, too


def test_a_checkpoint_carries_its_configuration_and_its_classes(tmp_path):
    config = config_module.load_preset("demo", ["optimizer.learning_rate=0.25"])
    path = _save(tmp_path, 1, config=config).path
    assert checkpoint.read_config(path) == config
    assert checkpoint.read_vocabulary(path) == CLASSES


def test_a_checkpoint_of_another_network_or_class_list_is_refused_by_name(tmp_path):
    _save(tmp_path, 1)
    _save(tmp_path, 2, vocabulary=Vocabulary(("dog", "cat"), ("Dog", "Cat")))
    _save(tmp_path, 3, config=config_module.from_dict({"network": {"width": 0.5}}))
    messages = []
    assert _load_newest(tmp_path, messages.append)["step"] == 1
    assert "step-00000003 is of another network" in messages[0]
    assert "step-00000002 was trained on another class list than the 2 classes" in messages[1]
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-00000001", "step-00000002.refused", "step-00000003.refused"}


def test_a_folder_without_checkpoints_lists_none(tmp_path):
    assert checkpoint.list_checkpoints(tmp_path / "absent") == []
    assert _load_newest(tmp_path, _ignore) is None


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
    assert _load_newest(tmp_path, messages.append)["step"] == 1
    assert "step-00000002" in messages[0]
    # The step can be reached, and saved, again.
    assert _save(tmp_path, 2, keep_checkpoints=1) == newest
    assert _load_newest(tmp_path, pytest.fail)["step"] == 2


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
    with pytest.raises(CheckpointError, match=r"no checkpoint that can be used, and 1 .*000009\.r"):
        _load_newest(tmp_path, _ignore)


def test_a_checkpoint_deleted_while_it_is_read_is_an_error_in_words(tmp_path):
    path = _save(tmp_path, 1).path
    shutil.rmtree(path)
    with pytest.raises(CheckpointError, match=r"step-00000001/state\.json cannot be read: No such"):
        checkpoint.load(path, "ema")


def _make_unreadable(path):
    """Lets reads of a file fail with EIO, for root too: nothing is mapped at address 0."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.parametrize("name", ["parameters.safetensors", "config.toml", "state.json"])
def test_a_checkpoint_that_cannot_be_read_now_is_neither_set_aside_nor_passed_over(tmp_path, name):
    _save(tmp_path, 1)
    file = Path(_save(tmp_path, 2).path) / name
    data = file.read_bytes()
    _make_unreadable(file)
    with pytest.raises(UnreachableError, match=rf"{name} cannot be read now: Input/output error"):
        _load_newest(tmp_path, pytest.fail)
    assert [c.step for c in checkpoint.list_checkpoints(tmp_path)] == [1, 2]
    file.unlink()
    file.write_bytes(data)
    assert _load_newest(tmp_path, pytest.fail)["step"] == 2


def test_a_checkpoint_that_cannot_be_looked_at_now_is_not_left_out(tmp_path):
    _save(tmp_path, 1)
    state = Path(_save(tmp_path, 2).path) / "state.json"
    state.unlink()
    state.symlink_to(state)  # ELOOP, which pathlib's exists() takes for a no
    with pytest.raises(UnreachableError, match=r"state\.json cannot be read now"):
        checkpoint.list_checkpoints(tmp_path)


def test_a_directory_in_the_place_of_a_file_is_damage(tmp_path):
    _save(tmp_path, 1)
    file = Path(_save(tmp_path, 2).path) / "slots.safetensors"
    file.unlink()
    file.mkdir()
    messages = []
    assert _load_newest(tmp_path, messages.append)["step"] == 1
    assert "slots.safetensors cannot be read: Is a directory" in messages[0]


def test_one_that_cannot_be_read_now_is_not_deleted_and_hinders_no_other(tmp_path):
    for step in (10, 70, 80):
        _save(tmp_path, step, keep_checkpoints=1, keep_hourly=1.0)
    _make_unreadable(tmp_path / "checkpoints/step-00000010/state.json")
    for step in (130, 140, 150):
        _save(tmp_path, step, keep_checkpoints=1, keep_hourly=1.0)
    kept = [c.step for c in checkpoint.list_checkpoints(tmp_path)]
    assert kept == [10, 70, 130, 150]


def test_a_run_whose_checkpoints_are_all_set_aside_is_not_begun_anew(tmp_path):
    for step in (1, 2):
        state = Path(_save(tmp_path, step).path) / "state.json"
        state.write_text("{")
    for report in (_ignore, pytest.fail):  # the first start sets them aside, later ones find that
        with pytest.raises(CheckpointError, match=r"2 that were set aside: .*1\.refused, .*2\.ref"):
            _load_newest(tmp_path, report)
    for refused in (tmp_path / "checkpoints").glob("*.refused"):
        shutil.rmtree(refused)
    assert _load_newest(tmp_path, pytest.fail) is None
