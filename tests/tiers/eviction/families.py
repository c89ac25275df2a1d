"""Traffic that the eviction policies are held to. Each family is a function of requests and a seed.

``CHOSEN`` are the families by which the parameters of ``adaptive`` were chosen, with the seeds 1, 2, 3 and 7 of
other generators. ``SEEN`` were looked at meanwhile (seeds 3 and 5), and nothing was chosen by them. ``HELD_OUT`` were
written when all parameters stood, and are not run to choose any.
"""

import heapq
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.random_streams import RandomStream
from lora_cli.bench.workload import AccessPattern
from tests.requested import requested

Family = Callable[[int, int], tuple[str, ...]]

ADAPTERS = 500
NAMES = [f"a{number}" for number in range(ADAPTERS)]
BY_RANK = parse_popularity("zipf:0.9")


def drawn(popularity: str) -> Family:
    return lambda requests, seed: requested(NAMES, parse_popularity(popularity), requests, seed)


def drift(requests: int, seed: int) -> tuple[str, ...]:
    return requested(NAMES, BY_RANK, requests, seed, AccessPattern("drift", (20, 5_000)))


def reshuffle(requests: int, seed: int) -> tuple[str, ...]:
    return requested(NAMES, BY_RANK, requests, seed, AccessPattern("drift", (100, 10_000)))


def scan(requests: int, seed: int) -> tuple[str, ...]:
    return requested(NAMES, BY_RANK, requests, seed, AccessPattern("scan", (10,)))


def sessions(users: int, turns: int) -> Family:
    return lambda requests, seed: requested(NAMES, BY_RANK, requests, seed, AccessPattern("sessions", (users, turns)))


def merged(requests: int, streams: list[Iterator[tuple[float, str]]]) -> tuple[str, ...]:
    return tuple(key for _, key in islice(heapq.merge(*streams), requests))


def on_and_off(requests: int, seed: int) -> tuple[str, ...]:
    """Functions as clouds see them: rates over many decades, on for minutes and off for longer, both heavy-tailed."""

    def stream(key: str, rate: float, chance: random.Random) -> Iterator[tuple[float, str]]:
        now = chance.random() * 3600
        while True:
            end = now + 60 * chance.paretovariate(1.3)
            while (now := now + chance.expovariate(rate)) < end:
                yield now, key
            now = end + 600 * chance.paretovariate(1.1)

    rates = random.Random(seed)
    streams = [
        stream(key, 2.718 ** rates.gauss(-3, 2.0), random.Random(seed * 1000 + number))
        for number, key in enumerate(NAMES)
    ]
    return merged(requests, streams)


def clumps(requests: int, seed: int) -> tuple[str, ...]:
    """Gamma arrivals of each adapter with a coefficient of variation of 8."""

    def stream(key: str, rate: float, chance: random.Random) -> Iterator[tuple[float, str]]:
        shape, now = 1 / 64, 0.0
        while True:
            now += chance.gammavariate(shape, 1 / rate / shape)
            yield now, key

    streams = [
        stream(key, (number + 1) ** -0.9, random.Random(seed * 1000 + number)) for number, key in enumerate(NAMES)
    ]
    return merged(requests, streams)


def timetables(requests: int, seed: int) -> tuple[str, ...]:
    """Every adapter at its own period, from a minute to an hour."""

    def stream(key: str, period: float, chance: random.Random) -> Iterator[tuple[float, str]]:
        now = chance.random() * period
        while True:
            yield now + chance.random() * 5, key
            now += period

    periods = random.Random(seed).choices([60, 300, 900, 3600], [0.1, 0.2, 0.3, 0.4], k=ADAPTERS)
    streams = [stream(key, periods[number], random.Random(seed * 1000 + number)) for number, key in enumerate(NAMES)]
    return merged(requests, streams)


def places(count: int) -> list[str]:
    return [str(place) for place in range(count)]


def launches(requests: int, seed: int) -> tuple[str, ...]:
    """Each 100 requests a new adapter comes, and is asked for less and less as younger ones come."""
    draws = iter(requested(places(ADAPTERS), parse_popularity("zipf:1.0"), requests, seed))
    return tuple(f"b{number // 100 - int(next(draws))}" for number in range(requests))


def by_recency(requests: int, seed: int) -> tuple[str, ...]:
    """The n-th last adapter comes again with Zipf's odds: nothing but recency tells, and LRU is the best there is."""
    stack = list(NAMES)
    found = []
    for depth in requested(places(ADAPTERS), parse_popularity("zipf:1.1"), requests, seed):
        stack.insert(0, stack.pop(int(depth)))
        found.append(stack[0])
    return tuple(found)


def tenants(requests: int, seed: int) -> tuple[str, ...]:
    """Twenty tenants of 25 adapters each: one has the floor for some 700 requests, then another."""
    draws = RandomStream(seed)
    inner = iter(requested(places(25), parse_popularity("zipf:0.7"), requests, seed))
    found, tenant = [], 0
    for _ in range(requests):
        if draws.below(700) == 0:
            tenant = draws.below(20)
        found.append(NAMES[tenant * 25 + int(next(inner))])
    return tuple(found)


def chats_over_traffic(requests: int, seed: int) -> tuple[str, ...]:
    """A third of the requests by 24 users of 8 turns each, the others drawn by another order of popularity."""
    draws = RandomStream(seed)
    chats = iter(requested(NAMES, BY_RANK, requests, seed, AccessPattern("sessions", (24, 8))))
    rest = iter(requested(NAMES[::-1], parse_popularity("slora-power:0.4"), requests, seed + 1))
    return tuple(next(chats) if draws.below(3) == 0 else next(rest) for _ in range(requests))


def loop(requests: int, seed: int) -> tuple[str, ...]:
    return requested(NAMES[: 40 + seed], parse_popularity("round-robin"), requests, seed)


CHOSEN: Mapping[str, Family] = {
    "zipf:0.8": drawn("zipf:0.8"),
    "zipf:1.0": drawn("zipf:1.0"),
    "zipf:1.2": drawn("zipf:1.2"),
    "drift": drift,
    "reshuffle": reshuffle,
    "scan": scan,
    "sessions-64x5": sessions(64, 5),
    "sessions-16x20": sessions(16, 20),
}
SEEN: Mapping[str, Family] = {"on-and-off": on_and_off, "clumps": clumps, "timetables": timetables}
HELD_OUT: Mapping[str, Family] = {
    "slora-power:0.3": drawn("slora-power:0.3"),
    "uniform": drawn("uniform"),
    "launches": launches,
    "by-recency": by_recency,
    "tenants": tenants,
    "chats-over-traffic": chats_over_traffic,
    "loop": loop,
}
