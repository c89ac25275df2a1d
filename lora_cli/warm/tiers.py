"""A tier: values by key in so many places, leases that keep a value there, and what is evicted for another one.

Time is logical: a policy counts requests, so that the replay of a trace is the life that it was recorded from.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf, log2
from threading import Condition
from time import monotonic
from typing import Generic, Literal, TypeVar

from lora_cli.errors import MachineError

T = TypeVar("T")

HALF_LIFE = 16
"""After so many requests for each place of the tier a request counts half: of Zipf, drifting and scanning requests such
rates have at most two points fewer hits than the better of LRU and of LFU that does not age."""


def _lru(_rate: float, now: int, _places: int) -> float:
    """The moment of the last request."""
    return now


def _lfu(rate: float, now: int, places: int) -> float:
    """``log2(sum(2**(t / half_life)))`` over the moments t of the requests.

    That is the logarithm of discounted requests, times a growth that is the same for all: only a request changes it. It
    counts the whole history of a key, not only since it was loaded: who comes back is known at once.
    """
    moment = now / (HALF_LIFE * places)
    low, high = sorted((rate, moment))
    return high + log2(1 + 2.0 ** (low - high))


PolicyName = Literal["lru", "lfu"]
POLICIES: Mapping[PolicyName, Callable[[float, int, int], float]] = {"lru": _lru, "lfu": _lfu}
"""The rate of a key at a request, by its rate before, the number of the request, and the places of the tier."""


class Tier(Generic[T]):
    """Values by key, of which the one with the lowest rate is evicted; ``hits``, ``loads`` and ``evictions`` so far.

    ``kept`` keys are never evicted, loaded already or later. Thread-safe: concurrent requests for a key share one load,
    and a load does not delay hits on other keys.
    """

    def __init__(self, name: str, places: int, policy: PolicyName = "lfu") -> None:
        self.places, self.hits, self.loads, self.evictions = places, 0, 0, 0
        self.kept = set[str]()
        self._name, self._policy = name, POLICIES[policy]
        self._values: dict[str, T] = {}
        self._loading, self._leases, self._rates = set[str](), Counter[str](), dict[str, float]()
        self._changed = Condition()

    @contextmanager
    def lease(self, key: str, load: Callable[[], T], *, name: str = "", timeout_s: float = 0.0) -> Iterator[T]:
        """The value of ``key``, loaded by ``load`` if it is missing, and not evicted before the block ends.

        If everything that could be evicted is leased or being loaded, it waits for room, up to ``timeout_s``. ``name``
        is what errors call it.

        Raises:
            MachineError: all places are of kept ones, or in use after ``timeout_s``. And what ``load`` raises.
        """
        with self._changed:
            is_hit = self._is_there(key, name or key, monotonic() + timeout_s)
            self._leases[key] += 1
        try:
            if not is_hit:
                value = load()
            with self._changed:
                if is_hit:
                    self.hits += 1
                else:
                    self._values[key] = value
                    self.loads += 1
                self._rates[key] = self._policy(self._rates.get(key, -inf), self.hits + self.loads, self.places)
                value = self._values[key]
                self._end_load(key)
            yield value
        finally:
            with self._changed:
                self._leases[key] -= 1
                self._end_load(key)

    def is_loaded(self, key: str) -> bool:
        """Whether ``key`` is loaded."""
        return key in self._values

    def discard(self, key: str) -> None:
        """Drop ``key`` if it is loaded and not leased, and unpin it."""
        with self._changed:
            self.kept.discard(key)
            if key in self._values and not self._leases[key]:
                del self._values[key]
                self._changed.notify_all()

    def status(self, size: Callable[[T], int]) -> Mapping[str, int]:
        """What it holds, the most that it may, its counters, and the bytes by the ``size`` of a value."""
        held = self.contents().values()
        counters = {"hits": self.hits, "loads": self.loads, "evictions": self.evictions}
        return {"adapters": len(held), "most": self.places, "bytes": sum(map(size, held)), **counters}

    def contents(self) -> Mapping[str, T]:
        """The loaded values by key, the first to be evicted first."""
        with self._changed:
            return {key: self._values[key] for key in sorted(self._values, key=self._rates.__getitem__)}

    def _end_load(self, key: str) -> None:
        self._loading.discard(key)
        self._changed.notify_all()

    def _is_there(self, key: str, name: str, until: float) -> bool:
        """Whether ``key`` is loaded; else a place is made for it, and it is marked as loading."""
        while key not in self._values:
            if key in self._loading:
                self._changed.wait()
                continue
            has_room = len(self._values) + len(self._loading) < self.places
            free = [] if has_room else [one for one in self._values if not self._leases[one] and one not in self.kept]
            if free:
                del self._values[min(free, key=self._rates.__getitem__)]
                self.evictions += 1
            if has_room or free:
                self._loading.add(key)
                return False
            full = f"no room for {name} in the {self._name} tier: all {self.places} adapters there are"
            if self.kept.issuperset(self._values) and not self._loading:
                raise MachineError(f"{full} kept loaded", hint="set keep_loaded for fewer adapters")
            if not self._changed.wait(max(0.0, until - monotonic())):
                raise MachineError(f"{full} in use", hint="raise its size")
        return True
