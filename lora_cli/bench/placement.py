"""A set of adapters split over servers, by their ranks and traffic; round robin and hashing to compare with.

An engine's slots, and the kernels of a batch, have the highest rank of its adapters: servers get adapters of few ranks.
Ranks stand in a row, the highest first, and each server takes an equal part of the traffic out of it. Within a rank the
adapter with the most traffic goes to the server with the least (longest processing time first); one that is hot for a
server is on several, which share its requests. The hits of a server's slots are estimated for LRU and independent
requests (Che, Tung and Wang, "Hierarchical Web caching systems: modeling, design and experimental results", IEEE JSAC
20(7), 2002).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from heapq import heapify, heappop, heappush
from itertools import groupby
from math import ceil, exp, fsum
from typing import Literal

from lora_cli import __version__
from lora_cli.bench.process_pool import Mapper, parallel_map
from lora_cli.bench.trace import Trace
from lora_cli.core.json_schema import EXCLUDED, INLINE, Count, PositiveCount, Share, Version

HOT_SHARE = 0.5
"""An adapter with more than this part of a server's traffic is on several servers."""
SNAP = 0.1
"""A server takes a second rank only for at least this part of its traffic, which it otherwise has more or less."""

Assignment = Sequence[Mapping[int, float]]
"""For each server its adapters, by their place in the set, with the part of the adapter's requests that it gets."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One adapter: its rank, its requests, and its load, the tokens of these."""

    name: str
    rank: int
    requests: float = 1.0
    load: float = 1.0


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """The most slots of a server, the share of requests that should find their adapter in one, and possible ranks.

    Without ``hit_ratio`` a server has all slots that its adapters can use. Where ``ranks`` is empty, any is possible.
    """

    max_loras: int
    hit_ratio: float | None = None
    ranks: tuple[int, ...] = ()
    pinned: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PlacedServer:
    """One server, its adapters in the order of the set, and the limits that it needs."""

    adapters: tuple[str, ...]
    load_share: Share
    """The part of all tokens that it gets."""
    max_lora_rank: Count
    max_loras: Count
    hit_ratio: Share | None
    """The estimated share of its requests that find their adapter in a slot; null without requests."""


@dataclass(frozen=True, slots=True)
class PlacementSummary:
    """What a way to place adapters costs."""

    busiest_server: float
    """The load of the busiest server, divided by the mean."""
    rank_padding: float
    """How many times the rank of an adapter its server's slots have, in the mean of all tokens."""
    slots: Count
    slot_ranks: Count
    """The sum of slots x rank over all servers, which is in proportion to the memory of slots."""
    hit_ratio: Share | None
    copies: PositiveCount
    """The number of adapters on servers; one on several counts as often."""
    misses_goal: Count
    """Servers whose slots do not reach the wanted hit ratio."""
    servers: tuple[PlacedServer, ...] = field(metadata=EXCLUDED)


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """A server to start: its engine's options, and the manifest of its adapters."""

    server: Count
    placed: PlacedServer = field(metadata=INLINE)
    max_cpu_loras: Count
    flags: tuple[str, ...]
    """The words of the engine's options, each a separate argument; empty without adapters."""
    manifest: str
    """An adapter set, as YAML; empty without adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementReport:
    """A set of adapters split over servers. A field may be added under the same number."""

    schema: Literal["lora_cli/place/1"] = "lora_cli/place/1"
    version: Version = __version__
    engine: str
    adapters: PositiveCount
    requests: Count
    """Of the trace; 0 without one, where all adapters count the same."""
    hit_ratio_goal: Share | None
    strategies: Mapping[str, PlacementSummary]
    """rank, which the servers have, and what it is compared with."""
    servers: Sequence[ServerEntry]


def demands_of(ranks: Mapping[str, int], trace: Trace | None) -> list[Demand]:
    """The demand for each adapter of a set in a trace; equal demands without one."""
    if trace is None:
        return [Demand(name, rank) for name, rank in ranks.items()]
    requests, tokens = dict.fromkeys(ranks, 0), dict.fromkeys(ranks, 0)
    for one in trace:
        requests[one.adapter] += 1
        tokens[one.adapter] += one.prompt_tokens + one.output_tokens
    return [Demand(name, rank, requests[name], tokens[name]) for name, rank in ranks.items()]


def place(demands: Sequence[Demand], servers: int) -> Assignment:
    """Each adapter on at least one server: servers of few ranks and about equal loads."""
    found: list[dict[int, float]] = [{} for _ in range(servers)]
    total = fsum(one.load for one in demands) or float(len(demands))
    order = sorted(range(len(demands)), key=lambda at: (-demands[at].rank, -demands[at].load, at))
    begin = 0.0
    placed = 0
    for _, group in groupby(order, key=lambda at: demands[at].rank):
        members = list(group)
        placed += len(members)
        load = fsum(demands[at].load for at in members)
        end = _snapped(begin + load / total * servers) if placed < len(order) else float(servers)
        rooms = _rooms(begin, max(end, begin), servers)
        _fill(members, demands, rooms, total / servers, found)
        begin = max(end, begin)
    return found


def _snapped(bound: float) -> float:
    return float(round(bound)) if abs(bound - round(bound)) < SNAP else bound


def _rooms(begin: float, end: float, servers: int) -> list[tuple[int, float]]:
    """The servers of a part of the row, and how much of each is in it; at least one server."""
    parts = [(one, min(end, one + 1.0) - max(begin, one)) for one in range(int(begin), min(ceil(end), servers))]
    return [(one, room) for one, room in parts if room > 1e-9] or [(min(int(begin), servers - 1), 1e-9)]


def _fill(
    members: Sequence[int],
    demands: Sequence[Demand],
    rooms: Sequence[tuple[int, float]],
    fair: float,
    found: Sequence[dict[int, float]],
) -> None:
    """Put adapters, the busiest first, on the servers with the least load for their room, then idle ones by number."""
    heap = [(0.0, -room, server, room) for server, room in rooms]
    heapify(heap)
    idle = False
    for at in members:
        if not demands[at].load and not idle:
            idle = True
            heap = [(count, load, server, room) for load, count, server, room in heap]
            heapify(heap)
        pieces = min(len(rooms), max(1, ceil(demands[at].load / (fair * HOT_SHARE))))
        chosen = [heappop(heap) for _ in range(pieces)]
        whole = fsum(room for *_, room in chosen)
        for first, second, server, room in chosen:
            found[server][at] = room / whole
            load, count = demands[at].load / whole, 1 / room
            more = (count, load) if idle else (load, count)
            heappush(heap, (first + more[0], second + more[1], server, room))


def round_robin(demands: Sequence[Demand], servers: int) -> Assignment:
    """The adapters in turn."""
    return _by(demands, servers, lambda at: at)


def by_hash(demands: Sequence[Demand], servers: int) -> Assignment:
    """The sha256 of an adapter's name chooses its server."""
    return _by(demands, servers, lambda at: int.from_bytes(sha256(demands[at].name.encode()).digest()[:8], "big"))


def _by(demands: Sequence[Demand], servers: int, number: Callable[[int], int]) -> Assignment:
    found: list[dict[int, float]] = [{} for _ in range(servers)]
    for at in range(len(demands)):
        found[number(at) % servers][at] = 1.0
    return found


def summarize(demands: Sequence[Demand], assignment: Assignment, limits: ServerLimits) -> PlacementSummary:
    """The limits of each server, and what they cost together."""
    total = fsum(one.load for one in demands) or 1.0
    servers = [_server(demands, adapters, limits, total) for adapters in assignment]
    padded = fsum(
        demands[at].load * part * one.max_lora_rank / demands[at].rank
        for one, adapters in zip(servers, assignment, strict=True)
        for at, part in adapters.items()
    )
    asked = [fsum(demands[at].requests * part for at, part in adapters.items()) for adapters in assignment]
    hits = fsum(one.hit_ratio * number for one, number in zip(servers, asked, strict=True) if one.hit_ratio is not None)
    goal = limits.hit_ratio or 0.0
    return PlacementSummary(
        busiest_server=max(one.load_share for one in servers) * len(servers),
        rank_padding=padded / total,
        slots=sum(one.max_loras for one in servers),
        slot_ranks=sum(one.max_loras * one.max_lora_rank for one in servers),
        hit_ratio=min(hits / fsum(asked), 1.0) if any(asked) else None,
        copies=sum(map(len, assignment)),
        misses_goal=sum(one.hit_ratio is not None and one.hit_ratio < goal for one in servers),
        servers=tuple(servers),
    )


def _server(
    demands: Sequence[Demand], adapters: Mapping[int, float], limits: ServerLimits, total: float
) -> PlacedServer:
    order = sorted(adapters)
    rank = max((demands[at].rank for at in order), default=0)
    rates = [rate for at in order if (rate := demands[at].requests * adapters[at])]
    most = min(limits.max_loras, len(order))
    slots, hits = most, hit_ratio(rates, most) if rates else None
    if limits.hit_ratio is not None and (hits is None or hits >= limits.hit_ratio):
        slots = min(max(slots_for(rates, limits.hit_ratio), 1), most)
    slots = max(slots, sum(demands[at].name in limits.pinned for at in order))
    return PlacedServer(
        adapters=tuple(demands[at].name for at in order),
        load_share=min(fsum(demands[at].load * adapters[at] for at in order) / total, 1.0),
        max_lora_rank=next((one for one in limits.ranks if one >= rank), rank) if order else 0,
        max_loras=slots,
        hit_ratio=hit_ratio(rates, slots) if rates and slots != most else hits,
    )


def hit_ratio(rates: Sequence[float], slots: int) -> float:
    """The share of requests at these rates that find their adapter in one of the slots; after the first ones."""
    if slots >= len(rates):
        return 1.0
    return _hits(rates, _solve(rates, lambda time: _resident(rates, time), slots))


def slots_for(rates: Sequence[float], goal: float) -> int:
    """The fewest slots with which the hit ratio reaches the goal."""
    if not rates:
        return 0
    time = _solve(rates, lambda time: _hits(rates, time), goal)
    return min(ceil(_resident(rates, time)), len(rates))


def _hits(rates: Sequence[float], time: float) -> float:
    return sum([rate * (1 - exp(-rate * time)) for rate in rates]) / sum(rates)


def _resident(rates: Sequence[float], time: float) -> float:
    """How many adapters are in slots from which one goes when it was not requested for so long."""
    return sum([1 - exp(-rate * time) for rate in rates])


def _solve(rates: Sequence[float], rises: Callable[[float], float], value: float) -> float:
    """The time at which a function that rises with it has the value, to nine digits."""
    high = 1 / max(rates)
    for _ in range(200):
        if rises(high) >= value:
            break
        high *= 2
    low = 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) >= value else (middle, high)
    return high


STRATEGIES: Mapping[str, Callable[[Sequence[Demand], int], Assignment]] = {
    "rank": place,
    "round-robin": round_robin,
    "hash": by_hash,
}
"""The placement by rank and traffic, and the ones to compare it with."""


def strategies(
    demands: Sequence[Demand], servers: int, limits: ServerLimits, mapper: Mapper = parallel_map
) -> Iterator[tuple[str, PlacementSummary]]:
    """The summary of each of ``STRATEGIES``, with its name."""
    return mapper(partial(_summary_of, demands, servers, limits), tuple(STRATEGIES), parallel=False)


def _summary_of(
    demands: Sequence[Demand], servers: int, limits: ServerLimits, name: str
) -> tuple[str, PlacementSummary]:
    return name, summarize(demands, STRATEGIES[name](demands, servers), limits)
