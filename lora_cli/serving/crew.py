"""Threads for what somebody waits for; none of them keeps the process from ending."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

IDLE_S = 10.0
"""So long a thread waits for its next call."""


class Crew:
    """Runs calls in daemon threads, ``most`` at once; the others wait for their turn.

    The executors of the standard library wait at the end of the process for what they run, and a server that never
    answers is waited for by nobody.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: deque[Callable[[], None]] = deque()
        self._threads = self._idle = 0
        self._changed = threading.Condition()

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """The result of ``call``, some time."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                future.set_exception(error)
            else:
                future.set_result(result)

        with self._changed:
            self._calls.append(run)
            if len(self._calls) > self._idle and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name="adapter", daemon=True).start()
            else:
                self._changed.notify()
        return future

    def _work(self) -> None:
        while (run := self._next()) is not None:
            run()

    def _next(self) -> Callable[[], None] | None:
        """The call that has waited longest; None when there was none for some time."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._calls, IDLE_S)
            self._idle -= 1
            if self._calls:
                return self._calls.popleft()
            self._threads -= 1
            return None
