"""Calls in daemon threads: an interrupt does not wait for a network that is silent."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, as_completed
from typing import TypeVar

Name = TypeVar("Name")
Reply = TypeVar("Reply")


def run_in_thread(call: Callable[[], Reply], name: str) -> "Future[Reply]":
    """What ``call`` will give, which runs in a daemon thread with that name."""
    future = Future[Reply]()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def map_in_threads(ask: Callable[[Name], Reply], names: Iterable[Name], threads: int) -> list[Reply]:
    """The answers, in the order of ``names``. The first error that comes is raised; nothing more is asked then."""
    left, answers = deque(enumerate(names)), dict[int, Reply]()
    count = len(left)

    def run() -> None:
        while True:
            try:
                number, name = left.popleft()
            except IndexError:
                return
            answers[number] = ask(name)

    for worker in as_completed([run_in_thread(run, "map") for _ in range(min(threads, count))]):
        if (error := worker.exception()) is not None:
            left.clear()
            raise error
    return [answers[number] for number in range(count)]
