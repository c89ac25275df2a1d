"""The same for many things, in threads, in their order; one that takes too long is left to itself."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

AT_ONCE = 32
WAKE_S = 0.5
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Overdue(Generic[S, T]):
    """After ``limit_s`` seconds ``instead`` says what came of one, whose thread is left to itself."""

    limit_s: float
    instead: Callable[[S], T]


def side_by_side(
    one: Callable[[S], T], wanted: Sequence[S], jobs: int, overdue: Overdue[S, T] | None = None
) -> Iterator[T]:
    """What ``one`` gives for each, in their order, as soon as it is known; up to ``jobs`` are under way at once.

    What ``one`` raises is raised here.
    """
    threads = min(jobs, AT_ONCE, len(wanted))
    yield from map(one, wanted) if threads < 2 and overdue is None else _in_threads(one, wanted, threads, overdue)


def _in_threads(one: Callable[[S], T], wanted: Sequence[S], threads: int, overdue: Overdue[S, T] | None) -> Iterator[T]:
    """Daemon threads, because an interrupt must not wait for a network that is silent or a lease that is held."""
    done: dict[int, T | BaseException] = {}
    began_s: dict[int, float] = {}
    changed = threading.Condition()
    left = iter(range(len(wanted)))

    def work() -> None:
        while True:
            with changed:
                index = next(left, None)
                if index is None:
                    return
                began_s[index] = time.monotonic()
            outcome: T | BaseException
            try:
                outcome = one(wanted[index])
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
                outcome = error
            with changed:
                if began_s.pop(index, None) is None:
                    return  # It was overdue, and another thread has its place.
                done[index] = outcome
                changed.notify_all()

    def give_up() -> None:
        """Answers for those that are overdue, and puts another thread in the place of each one's."""
        for index, since_s in list(began_s.items()):
            if overdue is not None and time.monotonic() - since_s > overdue.limit_s:
                del began_s[index]
                done[index] = overdue.instead(wanted[index])
                threading.Thread(target=work, name=f"instead-{index}", daemon=True).start()

    for number in range(threads):
        threading.Thread(target=work, name=f"fetch-{number}", daemon=True).start()
    for index in range(len(wanted)):
        with changed:
            while index not in done:
                changed.wait(WAKE_S)
                give_up()
            outcome = done.pop(index)
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome
