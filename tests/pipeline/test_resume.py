"""Runs that were stopped, changed, repeated; all in one folder."""

import io
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from PIL import Image
from test_webdataset import write_shard
from workplace import Workplace, jpeg

import beam_runner
from pipeline import metadata, storage


def commits(workplace):
    return sorted(workplace.output.glob("commits/train/*-of-*.json"))


FLAGS = ("--num_shards=12", "--shorter_side=30", "--deduplicate=off")  # of runs over slow images


def add_slow_images(workplace, count):
    """Images that each take about a third of a second, so that a run can be met half-way."""
    image = io.BytesIO()
    Image.new("RGB", (2000, 2000), "green").save(image, "PNG")
    for index in range(count):
        (workplace.images / f"{index}.jpg").write_bytes(image.getvalue())
    workplace.write_labels([f"{index}.jpg,cat" for index in range(count)])


def wait_for(process, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)


def test_a_killed_run_goes_on_and_writes_the_same_bytes(tmp_path):
    workplaces = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        workplace = Workplace(tmp_path / name)
        add_slow_images(workplace, 12)
        workplaces.append(workplace)
    whole, killed = workplaces
    assert whole.run(*FLAGS) == 0

    command = [sys.executable, beam_runner.__file__, *killed.arguments(*FLAGS)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    being_written = "commits/train/*-of-*.tmp"
    wait_for(process, lambda: list(killed.output.glob(being_written)) and commits(killed))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed.output / "train.completed.json").exists()
    written = {path: path.stat().st_mtime_ns for path in commits(killed)}
    assert 0 < len(written) < 12
    assert list(killed.output.glob("commits/train/*-of-*.tmp"))

    assert killed.run(*FLAGS) == 0
    assert killed.shards() == whole.shards()
    assert {path: path.stat().st_mtime_ns for path in written} == written  # not written again
    assert not list(killed.output.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_run_killed_at_ten_random_moments_writes_the_same_bytes(tmp_path, seed):
    workplaces = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        workplace = Workplace(tmp_path / name)
        rows = workplace.add_images(300)
        for index in range(0, 300, 10):  # a tenth has a twin, and some are lost
            data = (workplace.images / f"{index}.jpg").read_bytes()
            (workplace.images / f"twin-{index}.jpg").write_bytes(data)
            rows += [f"twin-{index}.jpg,plant", f"absent-{index}.jpg,dog"]
        workplace.write_labels(rows)
        workplaces.append(workplace)
    whole, killed = workplaces
    flags = ("--num_shards=24", "--shorter_side=25", "--max_failure_rate=0.2",
             "--splits=train=0.8,eval=0.2")  # fmt: skip
    assert whole.run(*flags, split=None) == 0

    random_moment = random.Random(seed)
    command = [sys.executable, beam_runner.__file__, *killed.arguments(*flags, split=None)]
    for kill in range(10):
        more = ["--workers=2"] if kill % 2 else []
        process = subprocess.Popen(
            [*command, *more], start_new_session=True, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=random_moment.uniform(0.5, 6))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert killed.run(*flags, split=None) == 0
    for split in ("train", "eval"):
        assert killed.shards(split) == whole.shards(split)
        for name in ("class_counts.tsv", "duplicates.csv"):
            file = f"{split}.{name}"
            assert (killed.output / file).read_bytes() == (whole.output / file).read_bytes()
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


@pytest.mark.parametrize(
    "name",
    [
        "images-train.tfrecord-00001-of-00004",
        "train.completed.json",
        "train.class_counts.tsv",
        "train.dead_letters.csv",
        "train.duplicates.csv",
        "dataset_info.json",
        "features.json",
        "labels.labels.txt",
        "commits/train/00001-of-00004.json",
        "commits/train/summary.json",
    ],
)
def test_a_lost_file_of_a_finished_split_is_written_again(finished, name):
    whole = contents(finished)
    written = {path: path.stat().st_mtime_ns for path in finished.output.glob("images-train*")}
    (finished.output / name).unlink()
    assert finished.run("--num_shards=4") == 0
    assert finished.shards() == whole["shards"]
    if name != "commits/train/summary.json":  # which only a run that works writes
        assert contents(finished) == whole
    for path, time_written in written.items():
        is_redone = "00001-of-00004" in name and "00001-of-00004" in path.name
        assert is_redone or path.stat().st_mtime_ns == time_written


def contents(workplace):
    """What a run leaves, but for the records of how it went."""
    names = [path.name for path in workplace.output.iterdir() if path.is_file()]
    files = {name: (workplace.output / name).read_bytes() for name in names}
    return {"files": files, "shards": workplace.shards(), "commits": len(commits(workplace))}


@pytest.mark.parametrize("name", ["images-train.tfrecord-00001-of-00004", "train.completed.json"])
def test_a_cut_file_of_a_finished_split_is_written_again(finished, name):
    whole = contents(finished)
    path = finished.output / name
    path.write_bytes(path.read_bytes()[:-3])
    assert finished.run("--num_shards=4") == 0
    assert contents(finished) == whole


def test_a_finished_split_needs_no_summary(finished, capsys):
    (finished.output / "commits/train/summary.json").write_text('{"split": ')
    capsys.readouterr()
    assert finished.run("--num_shards=4") == 0
    assert "is already complete" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"split": "other", "shard_lengths": 3}'])
def test_a_damaged_marker_of_another_split_is_passed_over(finished, text):
    (finished.output / "other.completed.json").write_text(text)
    assert finished.run("--num_shards=2", split="eval") == 0
    info = json.loads((finished.output / "dataset_info.json").read_text())
    assert [split["name"] for split in info["splits"]] == ["eval", "train"]


@pytest.mark.parametrize("text", ["", "[]", '{"inputs": []}', '{"inputs": {}, "recipe": 1}'])
def test_a_damaged_record_is_made_anew_or_refused_in_words(finished, capsys, text):
    record = finished.output / "commits/train/run.json"
    whole = record.read_text()
    record.write_text(text)
    assert finished.run("--num_shards=4") == 0  # the marker knows the fingerprint
    assert record.read_text() == whole
    record.write_text(text)
    (finished.output / "train.completed.json").unlink()
    capsys.readouterr()
    assert finished.run("--num_shards=4") == 2
    error = capsys.readouterr().err
    assert "without a record of the run that wrote them" in error
    assert "--overwrite" in error


def write_tars(workplace, label):
    """Two tars of five images each, of a length that does not depend on the label."""
    for shard in range(2):
        members = [
            member
            for index in range(5)
            for member in (
                (f"{shard}{index}.jpg", jpeg(seed=shard * 5 + index)),
                (f"{shard}{index}.cls", label),
            )
        ]
        write_shard(workplace.images / f"{shard}.tar", members)


def test_tars_that_were_written_since_are_read_again_and_their_labels_are_the_new_ones(
    workplace, capsys
):
    def run(split="train"):
        tars = f"--images={workplace.images}/*.tar"
        flags = ("--source=webdataset", tars, "--num_shards=2", "--max_failure_rate=0")
        assert workplace.run(*flags, split=split, without=("labels",)) == 0
        return capsys.readouterr().out

    def class_counts():
        return metadata.load_split(workplace.output, "train").class_counts.tolist()

    write_tars(workplace, "dog")
    sizes = [path.stat().st_size for path in sorted(workplace.images.iterdir())]
    run()
    assert "is already complete" in run()
    assert class_counts() == [0, 0, 10, 0]
    whole, times = workplace.shards(), shard_times(workplace)

    for path in workplace.images.iterdir():  # copied there again: the rows are the same
        os.utime(path, (1, 1))
    assert "is already complete" not in run()
    assert (workplace.shards(), shard_times(workplace)) == (whole, times)
    assert "is already complete" in run()

    write_tars(workplace, "plant")
    assert [path.stat().st_size for path in sorted(workplace.images.iterdir())] == sizes
    assert "is already complete" not in run()
    assert class_counts() == [0, 0, 0, 10]
    assert "is already complete" in run()


def shard_times(workplace):
    return {path: path.stat().st_mtime_ns for path in workplace.output.glob("images-train*")}


def test_a_marker_that_cannot_be_read_at_the_moment_is_no_missing_marker(
    finished, capsys, monkeypatch
):
    assert finished.run("--num_shards=2", split="eval") == 0
    opened = storage.open_to_read

    def broken(path):
        if path.endswith("eval.completed.json"):
            raise TimeoutError("timed out")
        return opened(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "open_to_read", broken)
        capsys.readouterr()
        assert finished.run("--num_shards=4", "--overwrite") == 75
    assert "timed out. The same command goes on from here" in capsys.readouterr().err
    assert finished.shards()  # nothing was withdrawn


def test_a_folder_of_images_may_be_spelled_in_several_ways(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished.root)
    for spelling in ("images", "./images", "images/", "images/../images"):
        assert finished.run("--num_shards=4", f"--images={spelling}", split="eval") == 0
    assert capsys.readouterr().out.count("is already complete") == 3


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
    assert (
        finished.run("--num_shards=3", "--overwrite", "--shorter_side=16", "--deduplicate=off") == 0
    )
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
    assert "that of the folder's other splits (train)" in capsys.readouterr().err


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
    add_slow_images(workplace, 100)
    flags = [*FLAGS, "--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    process = subprocess.Popen(
        [sys.executable, beam_runner.__file__, *workplace.arguments(*flags)],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(process, lambda: list(workplace.output.glob("commits/train/*-of-*.tmp")))
    for worker in psutil.Process(process.pid).children(recursive=True):
        worker.kill()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert "a worker process died while images-train.tfrecord-000" in error
    for index in range(100):
        (workplace.images / f"{index}.jpg").write_bytes(jpeg())  # what is left shall be quick
    assert workplace.run(*FLAGS) == 0
    assert sum(metadata.load_split(workplace.output, "train").shard_lengths) == 100


def test_overwrite_spares_files_that_are_not_ours(finished):
    stranger = finished.output / "train.csv"
    stranger.write_text("precious")
    assert finished.run("--overwrite") == 0
    assert stranger.read_text() == "precious"


@pytest.mark.parametrize("damage", ["absent", "changed"])
def test_a_damaged_class_list_is_written_again(finished, damage):
    path = finished.output / "classes.tsv"
    whole = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(whole.replace(b"cat", b"caz"))
    assert finished.run("--num_shards=4") == 0
    assert path.read_bytes() == whole


def test_nobody_who_listens_is_no_reason_to_fail(workplace):
    workplace.write_labels(workplace.add_images(3))
    command = [sys.executable, beam_runner.__file__, *workplace.arguments()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert (workplace.output / "train.completed.json").exists()


def test_workers_end_with_a_launcher_that_is_killed(workplace):
    add_slow_images(workplace, 100)
    command = [sys.executable, beam_runner.__file__, *workplace.arguments(*FLAGS, "--workers=2")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(process, lambda: list(workplace.output.glob("commits/train/*-of-*.tmp")))
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


def test_a_class_list_of_the_user_in_the_output_folder_stays_as_it_is(workplace):
    workplace.write_labels(workplace.add_images(3))
    workplace.output.mkdir()
    text = "class\tname\tnote\ncat\tCat\tx\nanimal\tAnimal\ty\n"
    (workplace.output / "classes.tsv").write_text(text)
    assert workplace.run(f"--classes={workplace.output / 'classes.tsv'}") == 0
    assert (workplace.output / "classes.tsv").read_text() == text
