"""Bounds that no policy can beat: optimal for a tier of equal places, and a bound where sizes, costs or tiers differ.

To find the optimum is NP-hard there. The bound lets an adapter that is asked for again stay for its part of the tier's
room added up over the whole trace, instead of for its room at every moment: the best stays are taken first, the last
one in part (Berger, Beckmann and Harchol-Balter, "Practical Bounds on Optimal Caching with Variable Object Sizes", ACM
SIGMETRICS 2018, whose PFOO-L it is). The requested adapter takes its own room at that moment.
"""

import heapq
from array import array
from collections.abc import Callable, Mapping, Sequence
from math import fsum

from lora_cli.bench.simulator import CPU, DISK, Fleet, LoadTimes, SimulatedRun
from lora_cli.tiers.memory_accounting import Budget


def next_requests(keys: Sequence[str]) -> list[int]:
    """For each request, the number of the next one for the same adapter; the length of the trace if there is none."""
    never = len(keys)
    following = [never] * never
    last: dict[str, int] = {}
    for number in range(never - 1, -1, -1):
        following[number] = last.get(keys[number], never)
        last[keys[number]] = number
    return following


def belady(keys: Sequence[str], places: int, start: Sequence[str] = ()) -> tuple[bytearray, int]:
    """The hits (1 for each request that hits) of Belady's policy with ``places`` equal places, and the evictions.

    The one that is requested last is evicted (Belady, "A study of replacement algorithms for a virtual-storage
    computer", IBM Systems Journal 1966); a new one is always admitted. No policy that lets newcomers in has more hits.
    The places hold ``start`` at first, as after a request for each.
    """
    requests = [*start, *keys]
    hits, evictions = bytearray(len(requests)), 0
    present: dict[str, int] = {}
    farthest: list[tuple[int, str]] = []
    for number, (key, then) in enumerate(zip(requests, next_requests(requests), strict=True)):
        if key in present:
            hits[number] = 1
        elif len(present) >= places:
            _evict_farthest(present, farthest)
            evictions += 1
        present[key] = then
        heapq.heappush(farthest, (-then, key))
    return hits[len(start) :], evictions


def _evict_farthest(present: dict[str, int], farthest: list[tuple[int, str]]) -> None:
    """Evict the key whose next request is latest; outdated heap entries are skipped."""
    while True:
        then, key = heapq.heappop(farthest)
        if present.get(key) == -then:
            del present[key]
            return


def belady_run(keys: Sequence[str], fleet: Fleet) -> SimulatedRun:
    """Belady's policy for the slots, and for memory on the misses of the slots: no policy has more hits in slots.

    Bytes are ignored. Its cost is not the least possible; see ``least_cost_ms``.
    """
    hits, out_of_slots = belady(keys, fleet.gpu.items, fleet.start.slots)
    missed = [number for number, hit in enumerate(hits) if not hit]
    in_memory, out_of_memory = belady([keys[number] for number in missed], fleet.cpu.items, fleet.start.memory)
    found, load_ms = bytearray(len(keys)), array("d", bytes(8 * len(keys)))
    put_ms, read_ms = ({name: cost(name) for name in fleet.sizes} for cost in (fleet.put_ms, fleet.read_ms))
    times = LoadTimes(fleet)
    for number, hit in zip(missed, in_memory, strict=True):
        key = keys[number]
        found[number] = CPU if hit else DISK
        load_ms[number] = times.next_ms(key, found[number], put_ms[key] if hit else put_ms[key] + read_ms[key])
    return SimulatedRun(found, load_ms, (out_of_slots, out_of_memory))


def max_hits(keys: Sequence[str], fleet: Fleet) -> float:
    """The most requests that can find their adapter in a slot."""
    return _max_savings(keys, fleet, fleet.gpu, lambda _name: 1.0, fleet.start.slots)


def least_cost_ms(keys: Sequence[str], fleet: Fleet) -> float:
    """The least milliseconds that all loads together can take.

    A slot is filled at least as often as slots alone make necessary, and the disk is read at least as often as it
    would be if slots and memory were one place.
    """
    cost = fsum(fleet.put_ms(key) + fleet.read_ms(key) for key in keys)
    both = (fleet.gpu.max_bytes, fleet.cpu.max_bytes)
    together = Budget(
        fleet.gpu.items + fleet.cpu.items,
        None if both[0] is None or both[1] is None else both[0] + both[1],
    )
    start = fleet.start
    puts = _max_savings(keys, fleet, fleet.gpu, fleet.put_ms, start.slots)
    reads = _max_savings(keys, fleet, together, fleet.read_ms, tuple(dict.fromkeys([*start.memory, *start.slots])))
    return cost - puts - reads


def _max_savings(
    keys: Sequence[str], fleet: Fleet, budget: Budget, value: Callable[[str], float], start: Sequence[str]
) -> float:
    """An upper bound of the savings of all hits, each worth its adapter's ``value``: the tightest that applies."""
    values = {name: value(name) for name in fleet.sizes}
    keys = [*(name for name in start if name in values), *keys]
    found = [_relaxed_bound(keys, budget.items, dict.fromkeys(values, 1), values)]
    if budget.max_bytes is not None:
        found.append(_relaxed_bound(keys, budget.max_bytes, fleet.sizes, values))
    if len(set(values.values())) == 1:
        found.append(sum(belady(keys, budget.items)[0]) * next(iter(values.values())))
    return min(found)


def _relaxed_bound(keys: Sequence[str], capacity: int, sizes: Mapping[str, int], values: Mapping[str, float]) -> float:
    room, saved = 0, 0.0
    stays: list[tuple[float, float, int]] = []
    for number, (key, then) in enumerate(zip(keys, next_requests(keys), strict=True)):
        size = sizes[key]
        room += max(0, capacity - size)
        area = size * (then - number - 1)
        if then == len(keys):
            continue
        if area:
            stays.append((-values[key] / area, values[key], area))
        else:
            saved += values[key]
    left: float = room
    for _, worth, area in sorted(stays):
        if area >= left:
            return saved + worth * left / area
        saved += worth
        left -= area
    return saved
