"""Runs that were stopped, changed, repeated; all in one folder."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import Workplace

import beam_runner
from pipeline import metadata, storage


def commits(workplace):
    return sorted(workplace.output.glob("commits/train/*-of-*.json"))


def test_a_killed_run_goes_on_and_writes_the_same_bytes(tmp_path):
    workplaces = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        workplace = Workplace(tmp_path / name)
        workplace.write_labels(workplace.add_images(12))
        workplaces.append(workplace)
    whole, killed = workplaces
    assert whole.run("--num_shards=12") == 0

    # The image of one shard is a pipe that nobody writes: the run waits there until it is killed.
    blocked = killed.images / "5.jpg"
    data = blocked.read_bytes()
    blocked.unlink()
    os.mkfifo(blocked)
    command = [sys.executable, beam_runner.__file__, *killed.arguments("--num_shards=12")]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(killed.output.glob("commits/train/*.tmp"))) == 0 or not commits(killed):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed.output / "train.completed.json").exists()
    written = {path: path.stat().st_mtime_ns for path in commits(killed)}
    assert 0 < len(written) < 12
    assert list(killed.output.glob("commits/train/*.tmp"))

    blocked.unlink()
    blocked.write_bytes(data)
    assert killed.run("--num_shards=12") == 0
    assert killed.shards() == whole.shards()
    assert {path: path.stat().st_mtime_ns for path in written} == written  # not written again
    assert not list(killed.output.rglob("*.tmp"))


@pytest.fixture
def finished(workplace):
    """A workplace whose split is complete."""
    workplace.write_labels(workplace.add_images(10))
    assert workplace.run("--num_shards=4") == 0
    return workplace


def test_a_finished_run_started_again_does_nothing(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.output.rglob("*.tfrecord-*")}
    capsys.readouterr()
    assert finished.run("--num_shards=4") == 0
    assert "is already complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_lost_or_cut_shard_is_written_again(finished):
    shards = finished.shards()
    paths = sorted(finished.output.glob("images-train*"))
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    assert finished.run("--num_shards=4") == 0
    assert finished.shards() == shards


def test_a_damaged_commit_is_written_again(finished):
    shards = finished.shards()
    (finished.output / "train.completed.json").unlink()
    commits(finished)[2].write_text('{"shard": ')
    assert finished.run("--num_shards=4") == 0
    assert finished.shards() == shards


@pytest.mark.parametrize("change", ["recipe", "labels", "classes"])
def test_another_recipe_or_other_inputs_are_refused_with_both_fingerprints(
    finished, capsys, change
):
    flags = ["--num_shards=4"]
    if change == "recipe":
        flags.append("--shorter_side=16")
    elif change == "labels":
        finished.write_labels(["0.jpg,cat"])
    else:
        finished.classes.write_text("class\ncat\ndog\n")
    before = finished.shards()
    fingerprint = metadata.load_split(finished.output, "train").fingerprint
    capsys.readouterr()
    assert finished.run(*flags) == 2
    error = capsys.readouterr().err
    assert f"with fingerprint {fingerprint[:16]}; this one has" in error
    assert "--overwrite" in error
    assert finished.shards() == before


def test_overwrite_leaves_nothing_of_the_old_run(finished):
    assert finished.run("--num_shards=2", split="eval") == 0
    assert finished.run("--num_shards=3", "--overwrite", "--shorter_side=16") == 0
    assert sorted(finished.shards()) == [
        f"images-train.tfrecord-{shard:05d}-of-00003" for shard in range(3)
    ]
    assert [path.name for path in commits(finished)] == [
        f"{shard:05d}-of-00003.json" for shard in range(3)
    ]
    assert metadata.completed_splits(finished.output) == ["eval", "train"]
    assert len(finished.shards("eval")) == 2


def test_overwrite_takes_the_old_marker_away_first(finished, capsys):
    finished.write_labels(["absent.jpg,cat"])
    assert finished.run("--overwrite") == 3
    assert metadata.completed_splits(finished.output) == []
    assert not (finished.output / "dataset_info.json").exists()


def test_a_second_split_with_another_class_list_is_refused(finished, capsys):
    finished.classes.write_text("class\nanimal\ncat\n")
    assert finished.run(split="eval") == 2
    assert "the class list of the folder's other splits (train)" in capsys.readouterr().err


def test_two_runs_of_one_split_at_once_are_refused(finished, capsys):
    with storage.lock(str(finished.output / "commits/train/lock")):
        assert finished.run("--num_shards=4") == 2
    assert "another run is writing split 'train'" in capsys.readouterr().err


def test_shards_of_unknown_origin_are_not_touched(workplace, capsys):
    workplace.write_labels(workplace.add_images(3))
    workplace.output.mkdir()
    stranger = pathlib.Path(workplace.output, "images-train.tfrecord-00000-of-00001")
    stranger.write_bytes(b"precious")
    assert workplace.run() == 2
    assert "without a record of the run" in capsys.readouterr().err
    assert stranger.read_bytes() == b"precious"


def test_an_output_that_cannot_be_written_ends_with_code_75_and_goes_on_later(workplace, capsys):
    workplace.write_labels(workplace.add_images(6))
    obstacle = workplace.output / "commits/train/00001-of-00003.json"
    obstacle.mkdir(parents=True)
    assert workplace.run("--num_shards=3") == 75
    error = capsys.readouterr().err
    assert "cannot write" in error
    assert "The same command goes on from here" in error
    assert "Traceback" not in error
    obstacle.rmdir()
    assert workplace.run("--num_shards=3") == 0


def test_an_output_below_a_file_is_refused(workplace, capsys):
    workplace.write_labels(workplace.add_images(2))
    workplace.output.write_text("a file")
    workplace.output = workplace.output / "below"
    assert workplace.run() == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_worker_process_that_dies_ends_the_run_and_the_next_goes_on(workplace):
    workplace.write_labels(workplace.add_images(8))
    blocked = workplace.images / "5.jpg"
    data = blocked.read_bytes()
    blocked.unlink()
    os.mkfifo(blocked)  # keeps a worker busy until it is killed
    flags = ["--num_shards=4", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    process = subprocess.Popen(
        [sys.executable, beam_runner.__file__, *workplace.arguments(*flags)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(workplace.output.glob("commits/train/*.tmp")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in psutil.Process(process.pid).children(recursive=True):
        worker.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert "a worker process died" in error
    blocked.unlink()
    blocked.write_bytes(data)
    assert workplace.run("--num_shards=4") == 0


def test_overwrite_spares_files_that_are_not_ours(finished):
    stranger = finished.output / "train.csv"
    stranger.write_text("precious")
    assert finished.run("--overwrite") == 0
    assert stranger.read_text() == "precious"


def test_a_class_list_of_the_user_in_the_output_folder_stays_as_it_is(workplace):
    workplace.write_labels(workplace.add_images(3))
    workplace.output.mkdir()
    text = "class\tname\tnote\ncat\tCat\tx\nanimal\tAnimal\ty\n"
    (workplace.output / "classes.tsv").write_text(text)
    assert workplace.run(f"--classes={workplace.output / 'classes.tsv'}") == 0
    assert (workplace.output / "classes.tsv").read_text() == text
