"""One checkpoint at a time is written beside the loop, and what goes wrong arrives in the loop."""

import threading

import pytest

from model.background_writer import BackgroundWriter


def test_the_loop_goes_on_while_a_checkpoint_is_written():
    may_end = threading.Event()

    def write():
        assert may_end.wait(60)
        return {"step": 7}

    writer = BackgroundWriter(write)
    assert writer.start()
    assert not writer.start()  # one at a time
    writer.wait(0.1)
    assert writer.poll() is None
    assert writer.is_busy
    may_end.set()
    writer.wait(60)
    assert writer.poll() == {"step": 7}
    assert not writer.is_busy
    assert writer.poll() is None  # told once
    assert writer.start()


def test_an_error_is_raised_where_the_loop_asks_and_the_next_attempt_is_free():
    outcomes = iter([OSError("No space left on device"), None])

    def write():
        error = next(outcomes)
        if error:
            raise error
        return {"step": 8}

    writer = BackgroundWriter(write)
    writer.start()
    writer.wait(60)
    with pytest.raises(OSError, match="No space left"):
        writer.poll()
    writer.start()
    writer.wait(60)
    assert writer.poll() == {"step": 8}
