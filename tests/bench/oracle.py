"""Slots and memory once more, as slowly and plainly as can be, to compare the simulation with."""

from collections.abc import Sequence
from math import exp2, inf

HALF_LIFE = 5_000


class Tier:
    """A list of adapters, the least recently used first; ``future`` and ``past`` are what is asked of this tier."""

    def __init__(self, policy: str, places: int, future: Sequence[str]) -> None:
        self.policy, self.places, self.future = policy, places, list(future)
        self.past: list[str] = []
        self.held: list[str] = []

    def hits(self, name: str) -> bool:
        hit = name in self.held
        assert self.future.pop(0) == name
        if hit:
            self.held.remove(name)
        elif len(self.held) == self.places:
            self.held.remove(self.worst())
        self.held.append(name)
        self.past.append(name)
        return hit

    def worst(self) -> str:
        if self.policy == "lru":
            return self.held[0]
        if self.policy == "lfu":
            return min(self.held, key=lambda one: (self.rate(one), one))
        return max(self.held, key=self.next)

    def rate(self, name: str) -> float:
        return sum(exp2(when / HALF_LIFE) for when, one in enumerate(self.past, 1) if one == name)

    def next(self, name: str) -> float:
        return self.future.index(name) if name in self.future else inf


def ratios(names: Sequence[str], policy: str, slots: int, memory: int) -> tuple[float, float]:
    """The shares of requests that find their adapter in a slot, and neither there nor in memory."""
    device = Tier(policy, slots, names)
    missed = [name for name in names if not device.hits(name)]
    host = Tier(policy, memory, missed)
    from_disk = [name for name in missed if not host.hits(name)]
    return 1 - len(missed) / len(names), len(from_disk) / len(names)
