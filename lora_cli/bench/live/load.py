"""An open loop: each request goes out at its time, whatever became of those before it. Or a closed one, of clients."""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from lora_cli.bench.live.requests import Ask, Course
from lora_cli.bench.live.streaming import Streaming
from lora_cli.endpoint.address import Address

LEAD_S = 0.01
"""The first request may come at 0, and is not late for that."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to the server at ``address``, at most ``max_concurrency`` at once (None: as many as there are).

    Where the loop is ``closed``, a request's time is when the one before it leaves it a place. ``probing`` goes beside.
    """

    address: Address
    token: str
    asks: Sequence[Ask]
    max_concurrency: int | None = None
    closed: bool = False
    probing: "Probing | None" = None


@dataclass(frozen=True, slots=True)
class Probing:
    """One small request at a time of its own, beside the load: ``ask`` goes out each ``every_s`` seconds."""

    ask: Ask
    every_s: float


def run_load(load: Load, course: Course, told: Callable[[int], None] = lambda _done: None) -> None:
    """Send every request at its time, and wait for all of them; ``told`` hears how many are done.

    A ``KeyboardInterrupt`` lets go of what is under way. The garbage collector passes over all that is there by now,
    from here on: to go through it would stop everything for long.
    """
    gc.collect()
    gc.freeze()
    asyncio.run(_run(load, course, told))


async def _run(load: Load, course: Course, told: Callable[[int], None]) -> None:
    places = asyncio.Semaphore(load.max_concurrency or len(load.asks) or 1)

    def clock() -> float:
        return time.perf_counter() - begin

    async with Streaming(load.address, load.token, clock) as streaming, asyncio.TaskGroup() as group:
        begin = time.perf_counter() + LEAD_S

        async def one(ask: Ask) -> None:
            woke_s = clock()
            async with places:
                if load.closed:
                    woke_s = clock()
                    ask = ask._replace(time_s=woke_s)
                course.answers.append(await streaming.send(ask, woke_s))
            told(len(course.answers))

        beside = group.create_task(_probe(streaming, clock, load.probing, course)) if load.probing is not None else None
        await asyncio.gather(*[await _at(ask, clock, group, one) for ask in load.asks])
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
