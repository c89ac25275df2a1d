"""The books of two tiers against real tiers, against theory, and against what nobody can beat."""

from itertools import product
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.optimal_bounds import belady_run
from lora_cli.bench.policy_comparison import simulate_all
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.simulator import (
    CPU,
    DISK,
    GPU,
    ONLINE,
    ONLINE_POLICIES,
    Fleet,
    SimulatedRun,
    parse_policies,
    run_report,
    simulate,
)
from lora_cli.bench.thresholds import POLICY_METRICS, simulation_metric_names, simulation_metrics
from lora_cli.bench.workload import SyntheticWorkload, make_requests
from lora_cli.errors import UsageError
from lora_cli.tiers.eviction import new_ledger
from lora_cli.tiers.memory_accounting import Budget
from lora_cli.tiers.tier import Tier
from tests.requested import requested

NAMES = [f"a{i}" for i in range(60)]
FLEET = Fleet(Budget(6), Budget(20))
TRACE = requested(NAMES, parse_popularity("zipf:0.9"), 3_000, 5)
SMALL = Fleet(Budget(2), Budget(3))


def test_a_request_finds_its_adapter_in_a_slot_in_memory_or_on_disk() -> None:
    # Two slots and three places in memory: after d, memory has b, c and d, and the slots have a and d.
    course = simulate("abcada", SMALL, "lru")
    assert list(course.found) == [DISK, DISK, DISK, CPU, DISK, GPU]
    assert course.evictions == (3, 1)


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_it_is_the_life_of_two_real_tiers(policy: str) -> None:
    def put(key: str) -> str:
        with memory.lease(key):
            return key

    memory = Tier(new_ledger(ONLINE_POLICIES[policy], "cpu", FLEET.cpu), weigh=lambda _key: 1, load=str)
    slots = Tier(new_ledger(ONLINE_POLICIES[policy], "gpu", FLEET.gpu), weigh=lambda _key: 1, load=put)
    found = []
    for key in TRACE:
        found.append(GPU if slots.is_loaded(key) else CPU if memory.is_loaded(key) else DISK)
        with slots.lease(key):
            pass
    course = simulate(TRACE, FLEET, policy)
    assert list(course.found) == found
    assert course.evictions == (slots.counts().evictions, memory.counts().evictions)


@pytest.mark.parametrize(("zipf", "slots"), list(product(("0.8", "1.0", "1.2"), (8, 32, 100))))
def test_lru_is_what_che_reckons(zipf: str, slots: int) -> None:
    """Che, Tung and Wang, "Hierarchical Web caching systems", IEEE JSAC 20(7), 2002: sum(1 - exp(-p_i T)) = C."""
    names, popularity = [f"a{i}" for i in range(500)], parse_popularity(f"zipf:{zipf}")
    whole = popularity.weights(names)
    shares = [one / sum(whole) for one in whole]
    low, high = 0.0, 1e9
    for _ in range(200):
        time = (low + high) / 2
        low, high = (time, high) if sum(1 - exp(-one * time) for one in shares) < slots else (low, time)
    expected = sum(one * (1 - exp(-one * low)) for one in shares)
    trace, warm_up = requested(names, popularity, 60_000, 11), 10_000
    found = simulate(trace, Fleet(Budget(slots), Budget(500)), "lru").found[warm_up:]
    assert found.count(GPU) / len(found) == pytest.approx(expected, abs=0.005)


@given(st.lists(st.sampled_from("abcdefg"), max_size=30), st.integers(1, 3), st.integers(0, 2))
def test_no_policy_has_more_hits_than_the_best_course(trace: list[str], slots: int, more: int) -> None:
    fleet = Fleet(Budget(slots), Budget(slots + more))
    best = belady_run(trace, fleet).found.count(GPU)
    assert all(simulate(trace, fleet, policy).found.count(GPU) <= best for policy in ONLINE)


def test_an_outcome_is_what_became_of_the_requests_in_numbers() -> None:
    found = run_report("online", SimulatedRun(bytearray([DISK] * 40 + [GPU, GPU, GPU, CPU] * 10), (3, 1)))
    assert (found.hits_by_tier, found.evictions) == ({"gpu": 30, "cpu": 10, "disk": 40}, {"gpu": 3, "cpu": 1})
    assert (found.requests, found.hits, found.hit_ratio) == (80, 30, 0.375)
    assert found.hit_ratio_over_time == (0.0,) * 20 + (1.0, 0.5) * 10


def test_a_simulation_has_the_metrics_that_conditions_are_checked_against() -> None:
    one = run_report("online", SimulatedRun(bytearray((GPU, CPU, CPU, DISK))))
    alone = simulation_metrics({"lru": one})
    assert set(alone) == simulation_metric_names(("lru",))
    assert (alone["hit_ratio"], alone["lru.memory_hit_ratio"]) == (0.25, 0.75)
    both = simulation_metrics({"lru": one, "lfu": one})
    assert set(both) == simulation_metric_names(("lru", "lfu"))
    assert not set(both) & set(POLICY_METRICS)


def test_a_gap_is_from_lru_to_the_best() -> None:
    trace = make_requests(NAMES, SyntheticWorkload(parse_popularity("zipf:0.9"), 6_000, 2))
    policies = ("opt", "lru", "fifo", "lfu")
    found = simulate_all(trace, FLEET, policies).policies
    assert tuple(found) == policies
    assert (found["lru"].gap_closed, found["opt"].gap_closed) == (0, 1)
    assert 0 < (found["lfu"].gap_closed or 0) < 1


def test_without_lru_or_the_best_there_is_no_gap() -> None:
    trace = make_requests(NAMES, SyntheticWorkload(parse_popularity("uniform"), 200))
    for policies in (["opt", "lfu"], ["lru", "lfu"]):
        assert simulate_all(trace, FLEET, policies).policies["lfu"].gap_closed is None


def test_where_lru_is_the_best_there_is_no_gap() -> None:
    trace = make_requests(["a"], SyntheticWorkload(parse_popularity("uniform"), 300))
    assert simulate_all(trace, Fleet(Budget(1), Budget(1)), ["lru", "opt"]).policies["opt"].gap_closed is None


def test_an_interrupt_leaves_the_policies_that_are_done() -> None:
    def interrupt(_policy: str) -> None:
        raise KeyboardInterrupt

    trace = make_requests(NAMES, SyntheticWorkload(parse_popularity("uniform"), 200))
    assert list(simulate_all(trace, FLEET, ["lru", "lfu"], on_done=interrupt).policies) == ["lru"]


def test_policies_are_named_once_each() -> None:
    assert parse_policies("LRU, opt,lru") == ("lru", "opt")
    for text in ("", "lru,", "lru,belady"):
        with pytest.raises(UsageError, match="unknown policy"):
            parse_policies(text)
