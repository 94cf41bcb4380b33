"""Silence: of a call that blocks, and of single workers."""

import threading

from model.watchdog import LONGEST_LOOK, Watchdog, WorkerWatch


def test_a_watchdog_that_is_not_fed_says_what_was_waited_for():
    called = threading.Event()
    said = []

    def function(doing, seconds):
        said.append((doing, seconds))
        called.set()

    with Watchdog(60.0, 0.1, function) as watchdog:
        watchdog.settle()
        watchdog.feed("reading the counters")
        assert called.wait(30)
    assert said == [("reading the counters", 0.1)]


def test_a_worker_that_stands_still_is_named_once_a_timeout_and_the_others_never():
    watch = WorkerWatch([0, 0], timeout=10, first_timeout=10, now=100)
    assert watch.look([1, 1], now=104) == ([], [])
    assert watch.look([2, 1], now=109) == ([], [])  # silent for 5 s
    assert watch.look([3, 1], now=114) == ([(1, 10, True)], [])
    assert watch.look([4, 1], now=119) == ([], [])
    assert watch.silent_for(timeouts=1) == [1]
    assert watch.silent_for(timeouts=2) == []
    assert watch.look([5, 1], now=124) == ([(1, 20, False)], [])
    assert watch.silent_for(timeouts=2) == [1]
    assert watch.look([6, 2], now=125) == ([], [1])
    assert watch.silent_for(timeouts=1) == []
    assert watch.look([7, 3], now=126) == ([], [])


def test_what_the_watcher_slept_through_is_no_silence_of_the_workers():
    watch = WorkerWatch([0], timeout=10, first_timeout=10, now=0)
    assert watch.look([0], now=3600) == ([], [])
    assert watch.look([0], now=3600 + 10 - LONGEST_LOOK) == ([(0, 10, True)], [])


def test_until_its_first_movement_a_worker_has_more_time():
    watch = WorkerWatch([0], timeout=4, first_timeout=8, now=0)
    assert watch.look([0], now=4) == ([], [])
    assert watch.look([0], now=8) == ([(0, 8, True)], [])
    assert watch.look([1], now=9) == ([], [0])
    assert watch.look([1], now=13) == ([(0, 4, True)], [])
