"""The events by which the processes of a run tell each other, and the last line of a file."""

import pytest

from model import run_folder


def test_events_are_read_once_and_only_those_that_came_since(tmp_path):
    run_folder.add_event(tmp_path, "worker 0", "hung", seconds=10)
    events = run_folder.Events(tmp_path)
    assert events.new() == []
    run_folder.add_event(tmp_path, "worker 1", "hung", seconds=20)
    run_folder.add_event(tmp_path, "ps 0", "leaving")
    found = events.new()
    assert [(e["task"], e["event"], e.get("seconds")) for e in found] == [
        ("worker 1", "hung", 20),
        ("ps 0", "leaving", None),
    ]
    assert events.new() == []


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path):
    events = run_folder.Events(tmp_path)
    with open(tmp_path / "events.jsonl", "w") as file:
        file.write('{"task": "ps 0", "ev')
        file.flush()
        assert events.new() == []
        file.write('ent": "leaving"}\nno JSON\n')
    assert [event["event"] for event in events.new()] == ["leaving"]


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path):
    assert not run_folder.add_event(tmp_path / "gone", "ps 0", "leaving")
    assert run_folder.add_event(tmp_path, "ps 0", "leaving")


@pytest.mark.parametrize("num_bytes", [10, 65_500, 65_536, 70_000, 700_000])
@pytest.mark.parametrize("end", ["", "\n", '\n{"step": 3, "cu', "\n\xff\n"])
def test_the_last_whole_line_is_found_however_long_it_is(tmp_path, num_bytes, end):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + '{"step": 2, "more": "' + num_bytes * "x" + '"}' + end)
    assert run_folder.last_line(path)["step"] == 2


def test_a_file_without_a_whole_line_has_no_last_one(tmp_path):
    assert run_folder.last_line(tmp_path / "gone") is None
    (tmp_path / "cut").write_text('{"step": 1')
    assert run_folder.last_line(tmp_path / "cut") is None
    (tmp_path / "empty").write_text("")
    assert run_folder.last_line(tmp_path / "empty") is None
