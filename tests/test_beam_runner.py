"""The command line: every mistake gives one message and exit code 2."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from apache_beam.options.pipeline_options import StandardOptions

import beam_runner
from pipeline import beam_options, options


@pytest.fixture
def good(tmp_path):
    (tmp_path / "train.csv").write_text("image_path,labels\na.jpg,cat\n")
    (tmp_path / "classes.tsv").write_text("class\ncat\n")
    return {
        "source": "manifest",
        "labels": tmp_path / "train.csv",
        "images": tmp_path,
        "output": tmp_path / "out",
        "split": "train",
        "classes": tmp_path / "classes.tsv",
    }


def run(flags):
    return beam_runner.main([f"--{name}={value}" for name, value in flags.items()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "nowhere.csv"}, "--labels=nowhere.csv: no such file"),
        ({"images": "nowhere"}, "--images=nowhere: no such folder"),
        ({"classes": "nowhere.tsv"}, "nowhere.tsv"),
        ({"source": "parquet"}, "invalid choice: 'parquet'"),
        ({"split": "a-b"}, "--split must be a name of letters, digits and _. Received: 'a-b'"),
        ({"split": "../x"}, "--split must be a name"),
        ({"num_shards": "0"}, "--num_shards must be from 1 to 99999. Received: 0"),
        ({"num_shards": "many"}, "invalid int value: 'many'"),
        ({"shorter_side": "-5"}, "--shorter_side must be at least 1. Received: -5"),
        ({"jpeg_quality": "101"}, "--jpeg_quality must be from 1 to 100. Received: 101"),
        ({"max_failure_rate": "1.5"}, "--max_failure_rate must be from 0 to 1"),
        ({"max_failure_rate": "nan"}, "--max_failure_rate must be from 0 to 1"),
        ({"label_delimiter": ""}, "--label_delimiter must be given a value"),
        ({"labels_column": "tags"}, "no column 'tags' (--labels_column). Columns found"),
        ({"shorter_sid": "5"}, "unknown flag --shorter_sid: did you mean --shorter_side?"),
        ({"direct_num_worker": "2"}, "did you mean --direct_num_workers?"),
        ({"runner": "FastRunner"}, "Unexpected pipeline runner: FastRunner"),
        ({"output": "nosuch://bucket/out"}, "no file system for this URI"),
        ({"classes": "nosuch://bucket/c.tsv"}, "--classes=nosuch://bucket/c.tsv: no file system"),
        ({"split": "all"}, "--split must be another name: TFDS calls all splits together 'all'"),
        ({"direct_num_workers": "-1"}, "--direct_num_workers must be at least 0. Received: -1"),
        ({"allow_hosts": "localhost"}, "--allow_hosts must be HOST:PORT. Received: ('local"),
        ({"trusted_sources": ","}, "--trusted_sources must be given a value"),
        ({"splits": "train"}, "each split needs its share, as in train=0.98,eval=0.02. Received"),
        ({"splits": "train=1"}, "--split and --splits exclude each other"),
        ({"upscale": ""}, "ignored explicit argument"),
        ({"crop": "9", "shorter_side": "9"}, "--shorter_side and --crop exclude each other"),
        ({"max_classes": "9"}, "--classes and --max_classes exclude each other"),
        ({"image_info": "x.csv"}, "--image_info is for --source=open_images alone"),
        ({"source": "folder"}, "--labels is for --source=manifest or open_images alone"),
        ({"workers": "2", "runner": "FnApiRunner"}, "--workers=2 is for this machine, without"),
        ({"runner": "DataflowRunner"}, "Missing required option: project."),
        ({"runner": "dataflowrunner"}, "Missing required option: project."),
    ],
)  # fmt: skip
def test_a_mistake_gives_one_message_and_code_2(good, capsys, changes, message):
    assert run(good | changes) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not good["output"].exists()


def test_a_flag_that_is_given_twice_is_refused(good, capsys):
    flags = [f"--{name}={value}" for name, value in good.items()]
    assert beam_runner.main([*flags, "--labels", "other.csv"]) == 2
    assert "--labels is given 2 times" in capsys.readouterr().err


def test_the_name_of_a_runner_has_no_case():
    for name in ("fnapirunner", "FnApiRunner", "directrunner"):
        found = beam_options.parse([f"--runner={name}"], workers=1)
        assert found.view_as(StandardOptions).runner == beam_options.DEFAULT_RUNNER


def test_file_uris_are_local_paths(good):
    for flag in ("labels", "images", "output", "classes"):
        good[flag] = f"file://{good[flag]}"
    parsed, _ = options.parse([f"--{name}={value}" for name, value in good.items()])
    assert parsed.source.images == good["images"].removeprefix("file://")
    assert "file:" not in str(parsed)


def test_ctrl_c_while_the_inputs_are_read_ends_with_code_130(good, tmp_path):
    os.truncate(good["labels"], 1 << 38)  # a file of holes, which takes minutes to read
    flags = [f"--{name}={value}" for name, value in good.items()]
    command = [sys.executable, beam_runner.__file__, *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        reader = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        while str(good["labels"]) not in [file.path for file in reader.open_files()]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error == "beam_runner.py: stopped; the same command goes on from here\n"


@pytest.mark.parametrize("flag", ["labels", "classes", "hierarchy"])
def test_a_pipe_is_refused_rather_than_waited_for(good, tmp_path, capsys, flag):
    os.mkfifo(tmp_path / "pipe.csv")
    assert run(good | {flag: tmp_path / "pipe.csv"}) == 2
    assert "pipe.csv: not a regular file" in capsys.readouterr().err


def test_a_missing_flag_is_named(good, capsys):
    del good["split"]
    assert run(good) == 2
    assert "name the split that the rows fall into" in capsys.readouterr().err


def test_a_misspelt_flag_is_named_rather_than_the_one_it_leaves_out(good, capsys):
    good["splt"] = good.pop("split")
    assert run(good) == 2
    assert "unknown flag --splt: did you mean --split" in capsys.readouterr().err


def test_a_label_file_without_rows_is_refused(good, capsys):
    for text in ("image_path,labels\n", ""):
        good["labels"].write_text(text)
        assert run(good) == 2
        assert "no row" in capsys.readouterr().err


def test_help_shows_an_example_without_importing_beam():
    code = (
        "import sys, beam_runner\n"
        "try:\n    beam_runner.main(['--help'])\n"
        "except SystemExit as exit:\n"
        "    sys.exit(9 if 'apache_beam' in sys.modules else exit.code)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0
    assert "python beam_runner.py --source=manifest" in finished.stdout
