"""Belady's policy: no policy that lets newcomers in has more hits in a tier of equal places."""

import heapq
from collections.abc import Sequence

from lora_cli.bench.simulator import CPU, DISK, Fleet, SimulatedRun


def next_requests(keys: Sequence[str]) -> list[int]:
    """For each request, the number of the next one for the same adapter; the length of the trace if there is none."""
    never = len(keys)
    following = [never] * never
    last: dict[str, int] = {}
    for number in range(never - 1, -1, -1):
        following[number] = last.get(keys[number], never)
        last[keys[number]] = number
    return following


def belady(keys: Sequence[str], places: int) -> tuple[bytearray, int]:
    """The hits (1 for each request that hits) of Belady's policy with ``places`` equal places, and the evictions.

    The one that is requested last is evicted (Belady, "A study of replacement algorithms for a virtual-storage
    computer", IBM Systems Journal 1966); a new one is always admitted. No policy that lets newcomers in has more hits.
    """
    hits, evictions = bytearray(len(keys)), 0
    present: dict[str, int] = {}
    farthest: list[tuple[int, str]] = []
    for number, (key, then) in enumerate(zip(keys, next_requests(keys), strict=True)):
        if key in present:
            hits[number] = 1
        elif len(present) >= places:
            _evict_farthest(present, farthest)
            evictions += 1
        present[key] = then
        heapq.heappush(farthest, (-then, key))
    return hits, evictions


def _evict_farthest(present: dict[str, int], farthest: list[tuple[int, str]]) -> None:
    """Evict the key whose next request is latest; outdated heap entries are skipped."""
    while True:
        then, key = heapq.heappop(farthest)
        if present.get(key) == -then:
            del present[key]
            return


def belady_run(keys: Sequence[str], fleet: Fleet) -> SimulatedRun:
    """Belady's policy for the slots, and for memory on the misses of the slots: no policy has more hits in slots."""
    hits, out_of_slots = belady(keys, fleet.gpu.items)
    missed = [number for number, hit in enumerate(hits) if not hit]
    in_memory, out_of_memory = belady([keys[number] for number in missed], fleet.cpu.items)
    found = bytearray(len(keys))
    for number, hit in zip(missed, in_memory, strict=True):
        found[number] = CPU if hit else DISK
    return SimulatedRun(found, (out_of_slots, out_of_memory))
