"""The events by which the processes of a run tell each other."""

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
