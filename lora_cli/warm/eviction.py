"""What a full tier evicts: budget, leases, pins and the order of evictions, without values, loads or threads.

Time is logical: a policy that needs a clock counts requests, so that a replay of a trace and the life that it was
recorded from are the same, and both can be repeated.
"""

import heapq
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, log2
from typing import Literal

from lora_cli.errors import MachineError


class Lru:
    """Evicts the key whose last request is the oldest.

    A policy is told of a request once it is answered, so never of one whose load failed.
    """

    def __init__(self) -> None:
        self._order: OrderedDict[str, None] = OrderedDict()

    def hit(self, key: str) -> None:
        """``key`` was requested, and is loaded."""
        self._order.move_to_end(key)

    def loaded(self, key: str) -> None:
        """``key`` was loaded for a request."""
        self._order[key] = None

    def removed(self, key: str) -> None:
        """Forget ``key``."""
        del self._order[key]

    def eviction_order(self) -> Iterator[str]:
        """Every loaded key, the first to evict first."""
        return iter(self._order)


HALF_LIFE = 16
"""After so many requests for each place of the tier a request counts half: of Zipf, drifting and scanning requests such
rates have at most two points fewer hits than the better of LRU and of LFU that does not age."""

MOST_RATES = 16_384
LARGEST_GAP = 64.0
"""A request adds nothing that a float can hold to a rate 2**64 times as large, and the other way round."""


class Lfu:
    """Evicts the key with the lowest rate of requests, which ages.

    A rate is ``log2(sum(2**(t / half_life)))`` over the moments t of its requests: the logarithm of discounted
    requests, times a growth that is the same for all. So only a request changes it, and it rises. It counts the whole
    history of a key, not only since it was loaded: who comes back is known at once. A loaded key is moved in the order
    when it is found at the front with an old rate: a hit costs nothing, and a look costs a few moves.
    """

    def __init__(self, places: int) -> None:
        self._half_life = HALF_LIFE * max(places, 1)
        self._clock = 0
        self._rates: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []
        self._placed: dict[str, float] = {}

    def hit(self, key: str) -> None:
        """Its rate rises. Beyond ``MOST_RATES`` and an eighth more, the lowest rates are forgotten."""
        self._clock += 1
        now = self._clock / self._half_life
        if key not in self._rates and len(self._rates) >= MOST_RATES + MOST_RATES // 8:
            for one in heapq.nsmallest(len(self._rates) - MOST_RATES, self._rates, key=self._rates.__getitem__):
                del self._rates[one]
        gap = now - self._rates.get(key, -inf)
        self._rates[key] = now if gap > LARGEST_GAP else self._rates[key] + log2(1 + 2.0**gap)

    def loaded(self, key: str) -> None:
        """Its rate rises, and it has a place in the order."""
        self.hit(key)
        self._place(key, 0)

    def removed(self, key: str) -> None:
        """``key`` has no place in the order; its rate stays."""
        del self._order[bisect_left(self._order, (self._placed.pop(key), key))]

    def eviction_order(self) -> Iterator[str]:
        """The lowest rate first."""
        at = 0
        while at < len(self._order):
            placed, key = self._order[at]
            if self._rates.get(key, -inf) > placed:
                del self._order[at]
                self._place(key, at)
            else:
                yield key
                at += 1

    def _place(self, key: str, at_least: int) -> None:
        self._placed[key] = self._rates.get(key, -inf)
        insort(self._order, (self._placed[key], key), at_least)


PolicyName = Literal["lru", "lfu"]
POLICIES: Mapping[PolicyName, Callable[[int], Lru | Lfu]] = {"lru": lambda _places: Lru(), "lfu": Lfu}
"""Each makes the policy of a tier with so many places."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The capacity of a tier: ``items`` values, with ``max_bytes`` in all (None: only ``items`` counts)."""

    items: int
    max_bytes: int | None = None

    def fits(self, items: int, used_bytes: int, weight: int) -> bool:
        """Whether one more item of ``weight`` bytes fits next to ``items`` items of ``used_bytes``."""
        return items < self.items and (self.max_bytes is None or used_bytes + weight <= self.max_bytes)


class TierBusy(MachineError):
    """There is no room until leases or loads end."""


class Ledger:
    """The accounting of one tier, also used by simulations: ``hits``, ``loads`` and ``evictions`` so far.

    A key is absent, ``loading`` (its bytes are counted) or loaded. Evictions are chosen before any is done: an
    ``admit`` that fails changes nothing. ``leases`` counts those who protect a key from eviction, and ``pinned`` keys
    are never evicted, loaded already or later.
    """

    def __init__(self, budget: Budget, policy: PolicyName, name: str = "") -> None:
        self.budget, self.policy, self.name = budget, POLICIES[policy](budget.items), name
        self.used_bytes = self.hits = self.loads = self.evictions = 0
        self.loading, self.pinned, self.leases = set[str](), set[str](), Counter[str]()
        self._weights: dict[str, int] = {}

    def request(self, key: str, weight: int) -> tuple[str, ...] | None:
        """A complete request: None for a hit; else it is admitted and loaded, and the evicted keys are returned.

        Raises as ``admit`` does.
        """
        if key in self._weights:
            self.hit(key)
            return None
        evicted = self.admit(key, weight)
        self.loaded(key)
        return evicted

    def hit(self, key: str) -> None:
        """Count a request for ``key``, which is loaded."""
        self.hits += 1
        self.policy.hit(key)

    def admit(self, key: str, weight: int, name: str = "") -> tuple[str, ...]:
        """Make room for ``key``, which is absent, and mark it as loading; returns the evicted keys in order.

        ``name`` is its name in errors, if it differs.

        Raises:
            TierBusy: the keys to evict are leased or loading.
            MachineError: it can never fit, alone or next to pinned keys.
        """
        evicted = self._to_evict(name or key, weight)
        for one in evicted:
            self._remove(one)
        self.evictions += len(evicted)
        self._weights[key] = weight
        self.used_bytes += weight
        self.loading.add(key)
        return evicted

    def loaded(self, key: str) -> None:
        """``key`` was loaded."""
        self.loading.remove(key)
        self.loads += 1
        self.policy.loaded(key)

    def failed(self, key: str) -> None:
        """The load of ``key`` failed."""
        self.loading.remove(key)
        self.used_bytes -= self._weights.pop(key)

    def discard(self, key: str) -> bool:
        """Unpin ``key``, and remove it if it is loaded and not leased; whether it was removed."""
        self.pinned.discard(key)
        if not self.is_loaded(key) or self.leases[key]:
            return False
        self._remove(key)
        return True

    def is_loaded(self, key: str) -> bool:
        """Whether ``key`` is loaded."""
        return key in self._weights and key not in self.loading

    def _to_evict(self, name: str, weight: int) -> tuple[str, ...]:
        items, used, evicted = len(self._weights), self.used_bytes, []
        if self.budget.fits(items, used, weight):
            return ()
        for one in self.policy.eviction_order():
            if self.leases[one] or one in self.pinned:
                continue
            evicted.append(one)
            items -= 1
            used -= self._weights[one]
            if self.budget.fits(items, used, weight):
                return tuple(evicted)
        place, most = f"no room for {name} in the {self.name} tier", self.budget.max_bytes
        kept = [self._weights[one] for one in self.pinned if one in self._weights]
        if most is not None and weight + sum(kept) > most:
            short = f"it needs {weight} bytes of {most}, of which {sum(kept)} are pinned"
            raise MachineError(f"{place}: {short}", hint="pin fewer adapters, or use a machine with more memory")
        if len(kept) >= self.budget.items:
            raise MachineError(f"{place}: all {len(kept)} adapters there are pinned", hint="pin fewer adapters")
        raise TierBusy(f"{place}: all {len(self._weights)} adapters there are in use", hint="raise its size")

    def _remove(self, key: str) -> None:
        self.used_bytes -= self._weights.pop(key)
        self.policy.removed(key)
