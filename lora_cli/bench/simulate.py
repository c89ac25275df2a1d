"""How many requests find their adapter in a slot, by the number of slots and the eviction policy; no times.

As in the warm process, whose policies these are, memory is asked only for an adapter that is in no slot.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence

from lora_cli.warm.tiers import POLICIES, Tier

BELADY = "belady"
POLICY_NAMES = (*POLICIES, BELADY)


def metric_names(slots: Sequence[int], memory: int | None) -> Iterator[str]:
    """The names of the numbers that ``simulate`` gives."""
    for places in slots:
        yield from (f"{policy}_hit_ratio_{places}" for policy in POLICY_NAMES)
        yield from (f"{policy}_disk_ratio_{places}" for policy in POLICY_NAMES if memory is not None)


def simulate(keys: Sequence[str], slots: Sequence[int], memory: int | None = None) -> Mapping[str, float]:
    """For each policy and number of slots ``lru_hit_ratio_16``, the share of the requests ``keys`` that hit a slot.

    With so many places in ``memory`` also ``lru_disk_ratio_16``, the share that neither a slot nor memory has. The
    tiers are empty at the start, so the first request of each adapter is a miss.
    """
    found: dict[str, float] = {}
    for places in slots:
        for policy in POLICY_NAMES:
            hits = tier_hits(keys, places, policy)
            found[f"{policy}_hit_ratio_{places}"] = sum(hits) / len(keys)
            if memory is not None:
                missed = [key for key, hit in zip(keys, hits, strict=True) if not hit]
                found[f"{policy}_disk_ratio_{places}"] = tier_hits(missed, memory, policy).count(False) / len(keys)
    return found


def tier_hits(keys: Sequence[str], places: int, policy: str) -> list[bool]:
    """Whether each request finds its adapter in a tier of so many places, which then has it."""
    if policy == BELADY:
        return _belady(keys, places)
    tier: Tier[None] = Tier("", places, policy)  # type: ignore[arg-type]
    hits = []
    for key in keys:
        hits.append(tier.is_loaded(key))
        with tier.lease(key, lambda: None):
            pass
    return hits


def _belady(keys: Sequence[str], places: int) -> list[bool]:
    """Belady's policy knows all requests: the adapter whose next one is the latest is evicted.

    No policy that admits each newcomer has more hits (Belady, "A study of replacement algorithms for a virtual-storage
    computer", IBM Systems Journal 1966).
    """
    never = len(keys)
    following, seen = [never] * never, dict[str, int]()
    for number in range(never - 1, -1, -1):
        following[number] = seen.get(keys[number], never)
        seen[keys[number]] = number
    hits: list[bool] = []
    held: dict[str, int] = {}
    latest: list[tuple[int, str]] = []  # may have entries of requests that have come since
    for key, then in zip(keys, following, strict=True):
        hits.append(key in held)
        while key not in held and len(held) >= places:
            next_request, one = heapq.heappop(latest)
            if held.get(one) == -next_request:
                del held[one]
        held[key] = then
        heapq.heappush(latest, (-then, key))
    return hits
