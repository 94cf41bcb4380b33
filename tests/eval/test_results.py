"""The files of a folder of results."""

import numpy as np
import pytest

from eval.evaluator import Evaluation
from eval.influence import Influence
from eval.results import Results, read_json_lines, replace_text


def report_of(step, value=0.5, weights=None):
    return {
        "step": step,
        "samples": 32 * step,
        "checkpoint_sha256": f"sha-{step}",
        "split": "eval",
        "parameters": "ema",
        "data_fingerprint": "x",
        "class_weights_sha256": weights,
        "k": 100,
        "classes": {"class": ["a"]},
        "metrics": {"map_at_100": {"value": value, "definition": "…"}},
    }


def evaluation_of(report, examples=None):
    return Evaluation(report, examples or {}, Influence(("a",), np.zeros(1), np.zeros(1)))


def test_history_is_in_order_of_steps_whatever_the_order_of_evaluation(tmp_path):
    results = Results(tmp_path / "new")
    for step in (30, 10, 20):
        results.add(
            evaluation_of(report_of(step, value=step / 100), {"step": step}), show=step == 30
        )
    history = results.history(report_of(0))
    assert [(line["step"], line["map_at_100"]) for line in history] == [
        (10, 0.1),
        (20, 0.2),
        (30, 0.3),
    ]
    assert results.step_report(20) == report_of(20, value=0.2)
    assert results.report() == report_of(30, value=0.3)
    assert results.examples() == {"step": 30}


def test_an_evaluation_replaces_an_earlier_one_of_its_step(tmp_path):
    results = Results(tmp_path)
    results.add(evaluation_of(report_of(10, value=0.1)), show=True)
    results.add(evaluation_of(report_of(10, value=0.2)), show=True)
    assert [line["map_at_100"] for line in results.history(report_of(0))] == [0.2]


def test_evaluations_with_other_weights_are_another_history(tmp_path):
    results = Results(tmp_path)
    results.add(evaluation_of(report_of(10, weights="w")), show=True)
    results.add(evaluation_of(report_of(20)), show=True)
    assert [line["step"] for line in results.history(report_of(0))] == [20]
    assert [line["step"] for line in results.history(report_of(0, weights="w"))] == [10]


def test_lines_that_are_cut_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st{"step": 2}\n\n{"step": 3}\n{"st')
    assert list(read_json_lines(path)) == [{"step": 1}, {"step": 3}]


def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path):
    path = tmp_path / "report.json"
    replace_text(path, "old")
    replace_text(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_what_is_no_json_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Results(tmp_path).add(evaluation_of(report_of(10, value=float("nan"))), show=True)
    assert list(tmp_path.iterdir()) == []
