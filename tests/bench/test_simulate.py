"""The simulated hits against a simulation of their own, slow and plain, and against what cannot be beaten."""

from collections.abc import Sequence
from math import exp2, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.simulate import POLICY_NAMES, metric_names, simulate

HALF_LIFE = 16
"""Requests for each place of the tier."""


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
        return sum(exp2(when / (HALF_LIFE * self.places)) for when, one in enumerate(self.past, 1) if one == name)

    def next(self, name: str) -> float:
        return self.future.index(name) if name in self.future else inf


def ratios(names: Sequence[str], policy: str, slots: int, memory: int) -> tuple[float, float]:
    """The shares of requests that find their adapter in a slot, and neither there nor in memory."""
    device = Tier(policy, slots, names)
    missed = [name for name in names if not device.hits(name)]
    host = Tier(policy, memory, missed)
    from_disk = [name for name in missed if not host.hits(name)]
    return 1 - len(missed) / len(names), len(from_disk) / len(names)


TRACES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


@given(TRACES, st.integers(1, 4), st.integers(0, 3))
def test_hits_are_those_of_another_simulation(names: list[str], slots: int, more: int) -> None:
    found = simulate(names, [slots], slots + more)
    assert set(found) == set(metric_names([slots], slots + more))
    for policy in POLICY_NAMES:
        told = (found[f"{policy}_hit_ratio_{slots}"], found[f"{policy}_disk_ratio_{slots}"])
        assert told == pytest.approx(ratios(names, policy, slots, slots + more)), policy


@given(TRACES, st.integers(1, 4))
def test_no_policy_has_more_hits_than_belady(names: list[str], slots: int) -> None:
    found = simulate(names, [slots])
    assert max(found.values()) == found[f"belady_hit_ratio_{slots}"]
