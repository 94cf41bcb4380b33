"""What a page shows besides its evaluation: another one, a hierarchy; and what is refused."""

import json

import pytest
from tiny_run import CLASSES

from eval import evaluate


def command(folder, *more):
    return [f"--workdir={folder / 'run'}", f"--data={folder / 'data'}", "--split=eval", *more]


@pytest.fixture
def evaluated(folder):
    """The folder, in which step 10 has been evaluated into `before`."""
    assert evaluate.main(command(folder, "--checkpoint=10", f"--output={folder / 'before'}")) == 0
    return folder


def refusal(capsys, arguments):
    assert evaluate.main(arguments) == 2
    return capsys.readouterr().err


def test_the_page_shows_the_difference_to_another_evaluation_and_the_subtrees(evaluated):
    hierarchy = evaluated / "hierarchy.csv"
    hierarchy.write_text("child,parent\nred,colour\ngreen,colour\nblue,colour\n")
    compared = f"--compare_with={evaluated / 'before'}"
    assert evaluate.main(command(evaluated, compared, f"--hierarchy={hierarchy}")) == 0
    page = (evaluated / "run/eval/eval/report.html").read_text()
    assert ">+0.0000</b>against" in page  # both checkpoints hold the same parameters
    assert "could be chance" in page
    assert "\\u0394AP" in page
    assert '"label": "colour"' in page


def test_the_hierarchy_is_the_datasets_unless_another_is_named(folder, capsys):
    path = folder / "data/eval.hierarchy.csv"
    path.write_text("child,parent\nred,warm\nblue,cold\n")
    page = folder / "run/eval/eval/report.html"
    assert evaluate.main(command(folder)) == 0
    assert '"label": "warm"' in page.read_text()
    named = folder / "hierarchy.csv"
    named.write_text("child,parent\nred,colour\n")
    assert evaluate.main(command(folder, f"--hierarchy={named}")) == 0
    assert '"label": "colour"' in page.read_text()
    assert '"label": "warm"' not in page.read_text()
    path.write_text("child\n")
    assert "the hierarchy of split 'eval'" in refusal(capsys, command(folder))


@pytest.mark.parametrize(
    ("key", "value"), [("data_fingerprint", "another"), ("class_weights_sha256", "abc"), ("k", 10)]
)
def test_an_evaluation_of_other_images_or_weights_is_refused(evaluated, capsys, key, value):
    path = evaluated / "before/report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    error = refusal(capsys, command(evaluated, f"--compare_with={path.parent}"))
    assert f"its {key} differ" in error


def test_an_evaluation_of_other_classes_or_an_older_format_is_refused(evaluated, capsys):
    path = evaluated / "before/report.json"
    report = json.loads(path.read_text())
    report["classes"]["class"] = list(CLASSES.classes[::-1])
    path.write_text(json.dumps(report))
    arguments = command(evaluated, f"--compare_with={path.parent}")
    assert "its class list differ" in refusal(capsys, arguments)
    path.write_text(json.dumps({**report, "format_version": 1}))
    assert "of format version 1" in refusal(capsys, arguments)


def test_a_folder_without_an_evaluation_is_refused(folder, capsys):
    error = refusal(capsys, command(folder, f"--compare_with={folder / 'run'}"))
    assert "holds no whole evaluation" in error


def test_a_hierarchy_that_cannot_be_read_is_refused(folder, capsys):
    path = folder / "hierarchy.csv"
    path.write_text("child,parent\nred,blue\nblue,red\n")
    assert "in a circle" in refusal(capsys, command(folder, f"--hierarchy={path}"))
