"""The best that a tier of equal places can do when the whole trace is known."""

import heapq
from array import array
from collections.abc import Sequence

from lora_cli.bench.fleet import Fleet
from lora_cli.bench.simulate import CPU, DISK, Course


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
    """Which requests hit (1) in a tier of so many equal places, and how many adapters are evicted.

    Whoever is asked for latest leaves (Belady, "A study of replacement algorithms for a virtual-storage computer",
    IBM Systems Journal 1966); a newcomer is always let in. No policy that lets newcomers in has more hits.
    """
    hits, evictions = bytearray(len(keys)), 0
    here: dict[str, int] = {}
    farthest: list[tuple[int, str]] = []
    for number, (key, then) in enumerate(zip(keys, next_requests(keys), strict=True)):
        if key in here:
            hits[number] = 1
        elif len(here) >= places:
            _leave(here, farthest)
            evictions += 1
        here[key] = then
        heapq.heappush(farthest, (-then, key))
    return hits, evictions


def _leave(here: dict[str, int], farthest: list[tuple[int, str]]) -> None:
    """Drop the key that is asked for latest; what was pushed for an earlier request of a key is passed over."""
    while True:
        then, key = heapq.heappop(farthest)
        if here.get(key) == -then:
            del here[key]
            return


def best_course(keys: Sequence[str], fleet: Fleet) -> Course:
    """Belady's in slots of equal places, and in memory on what the slots miss: no policy has more hits in slots.

    Bytes are not counted. Its cost is that of this course, and not the least possible; ``bounds`` has what that is.
    """
    hits, out_of_slots = belady(keys, fleet.gpu.items)
    missed = [number for number, hit in enumerate(hits) if not hit]
    in_memory, out_of_memory = belady([keys[number] for number in missed], fleet.cpu.items)
    found, load_ms = bytearray(len(keys)), array("d", bytes(8 * len(keys)))
    put_ms, read_ms = ({name: cost(name) for name in fleet.sizes} for cost in (fleet.put_ms, fleet.read_ms))
    for number, hit in zip(missed, in_memory, strict=True):
        key = keys[number]
        found[number] = CPU if hit else DISK
        load_ms[number] = put_ms[key] if hit else put_ms[key] + read_ms[key]
    return Course(found, load_ms, (out_of_slots, out_of_memory))
