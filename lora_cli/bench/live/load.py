"""An open loop: each request goes out at its time, whatever became of those before it. Or a closed one, of clients."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from lora_cli.bench.live.answer import Course
from lora_cli.bench.live.ask import Ask
from lora_cli.bench.live.streaming import Streaming
from lora_cli.endpoint.address import Address

LEAD_S = 0.01
"""The first request may come at 0, and is not late for that."""


@dataclass(frozen=True, slots=True)
class Probing:
    """One small request at a time of its own, beside the load: ``ask`` goes out each ``every_s`` seconds."""

    ask: Ask
    every_s: float


def run_load(
    address: Address,
    token: str,
    asks: Sequence[Ask],
    course: Course,
    *,
    max_concurrency: int | None = None,
    closed: bool = False,
    probing: Probing | None = None,
    told: Callable[[int], None] = lambda _done: None,
) -> None:
    """Send every request at its time, at most ``max_concurrency`` at once, and wait for all of them.

    Where the loop is ``closed``, a request's time is when the one before it leaves it a place. ``told`` hears how many
    are done. A ``KeyboardInterrupt`` lets go of what is under way.
    """
    with _unswept():
        asyncio.run(_run(address, token, asks, course, max_concurrency, closed, probing, told))


async def _run(
    address: Address,
    token: str,
    asks: Sequence[Ask],
    course: Course,
    max_concurrency: int | None,
    closed: bool,
    probing: Probing | None,
    told: Callable[[int], None],
) -> None:
    places = asyncio.Semaphore(max_concurrency or len(asks) or 1)

    def clock() -> float:
        return time.perf_counter() - begin

    async with Streaming(address, token, clock) as streaming, asyncio.TaskGroup() as group:
        begin = time.perf_counter() + LEAD_S

        async def one(ask: Ask) -> None:
            woke_s = clock()
            async with places:
                if closed:
                    woke_s = clock()
                    ask = ask._replace(time_s=woke_s)
                course.answers.append(await streaming.send(ask, woke_s))
            told(len(course.answers))

        beside = group.create_task(_probe(streaming, clock, probing, course)) if probing is not None else None
        load = [await _at(ask, clock, group, one) for ask in asks]
        await asyncio.gather(*load)
        if beside is not None:
            beside.cancel()


async def _at(
    ask: Ask, clock: Callable[[], float], group: asyncio.TaskGroup, one: Callable[[Ask], object]
) -> "asyncio.Task[None]":
    """Begin it at its time."""
    if (left := ask.time_s - clock()) > 0:
        await asyncio.sleep(left)
    return group.create_task(one(ask))  # type: ignore[arg-type]


async def _probe(streaming: Streaming, clock: Callable[[], float], probing: Probing, course: Course) -> None:
    """Probes until it is cancelled; those under way then are let go."""

    async def one(ask: Ask) -> None:
        course.probes.append(await streaming.send(ask, clock()))

    async with asyncio.TaskGroup() as group:
        for number in count():
            await _at(probing.ask._replace(time_s=number * probing.every_s), clock, group, one)


@contextmanager
def _unswept() -> Iterator[None]:
    """The garbage collector passes over all that is there by now: a sweep through it would stop everything for long."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
