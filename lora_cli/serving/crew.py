"""Threads for what somebody waits for; none of them keeps the process from ending."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


class Crew:
    """Runs calls in daemon threads, ``most`` at once; the others wait for their turn.

    The executors of the standard library wait at the end of the process for what they run, and a server that never
    answers is waited for by nobody.
    """

    def __init__(self, most: int) -> None:
        self._turns = threading.BoundedSemaphore(most)

    def submit(self, call: Callable[[], T]) -> "Future[T]":
        """The result of ``call``, some time."""
        future: Future[T] = Future()

        def run() -> None:
            with self._turns:
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
                    future.set_exception(error)
                else:
                    future.set_result(result)

        threading.Thread(target=run, name="adapter", daemon=True).start()
        return future
