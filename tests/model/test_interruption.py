"""SIGTERM and Ctrl-C, sent to this process."""

import os
import signal

import pytest

from model.interruption import Interrupted, Signals


def _send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_has_nothing_to_save_at_once(number):
    with Signals(), pytest.raises(Interrupted) as interrupted:
        _send(number)
    assert interrupted.value.number == number


def test_a_deferred_signal_waits_until_it_is_looked_at():
    with Signals() as signals:
        with signals.deferred():
            _send(signal.SIGTERM)
            _send(signal.SIGTERM)  # batch systems repeat themselves
        assert signals.received == signal.SIGTERM


def test_a_second_ctrl_c_does_not_wait():
    with Signals() as signals, signals.deferred():
        _send(signal.SIGINT)
        with pytest.raises(Interrupted):
            _send(signal.SIGINT)


def test_the_handlers_before_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
