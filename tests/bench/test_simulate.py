"""The simulated hits against a simulation of their own, against what cannot be beaten, and against theory."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.simulate import POLICY_NAMES, metric_names, simulate
from lora_cli.bench.workload import Popularity, Workload, make_requests
from tests.bench.oracle import ratios


def requested(adapters: int, exponent: float, requests: int, seed: int = 0) -> list[str]:
    names = [f"a{number}" for number in range(adapters)]
    return [one.adapter for one in make_requests(names, Workload(Popularity(exponent), requests, seed))]


TRACES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


@given(TRACES, st.integers(1, 4), st.integers(0, 3))
def test_hits_are_those_of_another_simulation(names: list[str], slots: int, more: int) -> None:
    found = simulate(names, [slots], slots + more)
    assert set(found) == set(metric_names([slots], slots + more))
    for policy in POLICY_NAMES:
        told = (found[f"{policy}_hit_ratio_{slots}"], found[f"{policy}_disk_ratio_{slots}"])
        assert told == pytest.approx(ratios(names, policy, slots, slots + more)), policy


def test_hits_of_a_workload_are_those_of_another_simulation_for_each_number_of_slots() -> None:
    names, slots = requested(60, 0.9, 1_500), [4, 8, 16]
    found = simulate(names, slots)
    assert list(found) == [f"{policy}_hit_ratio_{places}" for places in slots for policy in ("lru", "lfu", "belady")]
    for places in slots:
        for policy in POLICY_NAMES:
            assert found[f"{policy}_hit_ratio_{places}"] == pytest.approx(ratios(names, policy, places, 60)[0])


@given(TRACES, st.integers(1, 4))
def test_no_policy_has_more_hits_than_belady(names: list[str], slots: int) -> None:
    found = simulate(names, [slots])
    assert max(found.values()) == found[f"belady_hit_ratio_{slots}"]


@pytest.mark.parametrize("exponent", [0.8, 1.2])
@pytest.mark.parametrize("slots", [8, 100])
def test_lru_is_what_che_reckons(exponent: float, slots: int) -> None:
    """Che, Tung and Wang, "Hierarchical Web caching systems", IEEE JSAC 20(7), 2002: sum(1 - exp(-p_i T)) = C."""
    whole = Popularity(exponent).of(["a"] * 500)
    shares = [one / sum(whole) for one in whole]
    low, high = 0.0, 1e9
    for _ in range(200):
        time = (low + high) / 2
        low, high = (time, high) if sum(1 - exp(-one * time) for one in shares) < slots else (low, time)
    found = simulate(requested(500, exponent, 60_000, seed=11), [slots])[f"lru_hit_ratio_{slots}"]
    assert found == pytest.approx(sum(one * (1 - exp(-one * low)) for one in shares), abs=0.01)
