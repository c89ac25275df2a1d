"""A question for each of several names, a few at once."""

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

Name = TypeVar("Name")
Reply = TypeVar("Reply")


def abreast(ask: Callable[[Name], Reply], names: Iterable[Name], threads: int) -> list[Reply]:
    """The answers, in the order of ``names``. The first error that comes is raised; nothing more is asked then.

    Daemon threads, because an interrupt must not wait for a network that is silent.
    """
    left = list(names)
    count = len(left)
    work, done = queue.SimpleQueue[tuple[int, Name]](), queue.SimpleQueue[tuple[int, Reply | BaseException]]()
    for item in enumerate(left):
        work.put(item)

    def run() -> None:
        while True:
            try:
                number, name = work.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, ask(name)))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
                done.put((number, error))
                return

    for _ in range(min(threads, count)):
        threading.Thread(target=run, name="abreast", daemon=True).start()
    found: dict[int, Reply] = {}
    while len(found) < count:
        number, reply = done.get()
        if isinstance(reply, BaseException):
            with suppress(queue.Empty):
                while True:
                    work.get_nowait()
            raise reply
        found[number] = reply
    return [found[number] for number in range(count)]
