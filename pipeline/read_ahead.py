"""Work that waits for others, done by threads ahead of its turn: in order, and bounded.

What comes next is started while earlier results are used, as far as the results that wait, and
those to be expected by the size of the others, stay within limits of number and size.
"""

import collections
import concurrent.futures
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Generic, TypeVar

MAX_AHEAD = 64  # items
MAX_AHEAD_SIZE = 256 * 1024 * 1024  # sum of the results' lengths

_Item = TypeVar("_Item")
_Result = TypeVar("_Result", bound=Sized)
_Error = TypeVar("_Error", bound=Exception)


class _Turn(Generic[_Result]):
    """One item's result: of a thread, or of a call at its turn."""

    def __init__(
        self, call: Callable[[], _Result], pool: concurrent.futures.Executor | None
    ) -> None:
        self._call = call
        self._future = pool.submit(call) if pool else None

    def result(self) -> _Result:
        return self._future.result() if self._future else self._call()

    def cancel(self) -> None:
        if self._future:
            self._future.cancel()

    def size(self) -> int | None:
        """The result's, where a thread has it already; None where one is at work."""
        if not self._future:
            return 0
        if not self._future.done():
            return None
        return 0 if self._future.exception() else len(self._future.result())


def in_order(
    work: Callable[[_Item, threading.Event], _Result],
    items: Iterable[_Item],
    pool_for: Callable[[_Item], concurrent.futures.Executor | None],
    error_type: type[_Error],
) -> Iterator[_Result | _Error]:
    """What work(item, stopped) returns, or raises of `error_type`, for each item in order.

    `pool_for`: the threads that an item is for; None: it is done at its turn, by the caller.
    `stopped` is set when nobody waits for results any more.
    """
    stopped = threading.Event()
    turns: collections.deque[_Turn[_Result]] = collections.deque()
    usual_size = 0.0

    def next_result() -> _Result | _Error:
        nonlocal usual_size
        try:
            result = turns.popleft().result()
        except error_type as error:
            return error
        usual_size += (len(result) - usual_size) / 8
        return result

    def is_full() -> bool:
        sizes = [turn.size() for turn in turns]
        expected = sum(usual_size if size is None else size for size in sizes)
        return len(sizes) >= MAX_AHEAD or expected + usual_size > MAX_AHEAD_SIZE

    try:
        for item in items:
            pool = pool_for(item)
            while turns and is_full():
                yield next_result()
            turns.append(_Turn(functools.partial(work, item, stopped), pool))
            if pool is None and len(turns) == 1:
                yield next_result()
        while turns:
            yield next_result()
    finally:
        stopped.set()
        for turn in turns:
            turn.cancel()
