"""A trace through the books of a tier, and the best that any policy could have made of it."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.replay import Replayed, optimal_hits, replay
from lora_cli.bench.workload import make_trace
from lora_cli.errors import MachineError
from lora_cli.tiers.budget import Budget
from lora_cli.tiers.eviction.registry import POLICIES, PolicyName

TRACE = make_trace([f"a{i}" for i in range(100)], parse_popularity("zipf:0.9"), 3_000, seed=4)


def test_a_replay_counts_hits_evictions_and_what_misses_cost() -> None:
    costs = {"a": 1.0, "b": 10.0, "c": 100.0}
    assert replay("abacb", Budget(2), "lru", cost_ms=costs.__getitem__) == Replayed(5, 1, 2, 121.0)


def test_a_replay_of_nothing_has_no_hits() -> None:
    assert replay((), Budget(2), "adaptive").hit_ratio == 0


def test_bytes_bind_as_items_do_and_what_never_fits_is_refused() -> None:
    assert replay("abab", Budget(9, 10), "lru", weigh=lambda key: 6).hits == 0
    with pytest.raises(MachineError, match="needs 11 bytes and the tier has 10, 1 short"):
        replay("a", Budget(9, 10), "lru", weigh=lambda key: 11)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_same_trace_has_the_same_outcome(policy: PolicyName) -> None:
    first = replay(TRACE, Budget(10), policy)
    assert replay(TRACE, Budget(10), policy) == first
    assert first.hits + first.cost_ms == first.requests


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_look_ahead_helps_every_policy(policy: PolicyName) -> None:
    without, ahead = (replay(TRACE, Budget(10), policy, look_ahead=count).hits for count in (0, 32))
    assert ahead > 1.05 * without
    assert ahead <= optimal_hits(TRACE, 10)


@given(st.text("abcde", max_size=12), st.integers(1, 3))
def test_the_best_is_what_trying_every_choice_finds(trace: str, items: int) -> None:
    @cache
    def most(number: int, here: frozenset[str]) -> int:
        if number == len(trace):
            return 0
        key = trace[number]
        if key in here:
            return 1 + most(number + 1, here)
        if len(here) < items:
            return most(number + 1, here | {key})
        return max(most(number + 1, here - {one} | {key}) for one in here)

    assert optimal_hits(trace, items) == most(0, frozenset())


@given(st.lists(st.sampled_from("abcdefgh"), max_size=80), st.integers(1, 5), st.sampled_from(sorted(POLICIES)))
def test_no_policy_beats_the_best(trace: list[str], items: int, policy: PolicyName) -> None:
    assert replay(trace, Budget(items), policy).hits <= optimal_hits(trace, items)
