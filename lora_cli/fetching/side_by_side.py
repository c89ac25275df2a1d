"""The same for many things, in threads, in their order; one that takes too long is left to itself."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lora_cli.fetching.scheduler import Distance, WorkerThreads

AT_ONCE = 32
NEAR = 8
"""So many are under way at once when their origin is nearby."""

LOOK_S = 0.1
S = TypeVar("S")
T = TypeVar("T")


def side_by_side(
    one: Callable[[S], T],
    wanted: Sequence[S],
    jobs: int,
    distance: Distance | None = None,
    limit_s: float | None = None,
    instead: Callable[[S], T] | None = None,
) -> Iterator[T]:
    """What ``one`` gives for each, in their order, as soon as it is known; up to ``jobs`` are under way at once.

    With ``distance`` that many are only when it says that their origin is far away. What ``one`` raises is raised here.
    After ``limit_s`` seconds ``instead`` says what came of one, whose thread is left to itself.
    """
    most = min(jobs, AT_ONCE, len(wanted))
    if most < 2 and limit_s is None:
        yield from map(one, wanted)
        return
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
            if limit_s is not None and instead is not None and time.monotonic() - since_s > limit_s:
                del began_s[index]
                done[index] = instead(wanted[index])
                threading.Thread(target=work, name=f"instead-{index}", daemon=True).start()

    threads = WorkerThreads(work, "fetch", most)
    for index in range(len(wanted)):
        with changed:
            while index not in done:
                threads.at_least(most if distance is None or distance.far else NEAR)
                changed.wait(LOOK_S)
                give_up()
            outcome = done.pop(index)
        if isinstance(outcome, BaseException):
            raise outcome
        yield outcome
