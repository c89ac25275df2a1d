"""The books of two tiers against real tiers, against theory, and against what nobody can beat."""

from dataclasses import replace
from itertools import product
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench import policy_comparison
from lora_cli.bench.link_model import Link, Links
from lora_cli.bench.optimal_bounds import belady_run, least_cost_ms, max_hits
from lora_cli.bench.policy_comparison import simulate_all
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.report import LoadedAdapters
from lora_cli.bench.simulator import (
    CPU,
    DISK,
    GPU,
    ONLINE,
    ONLINE_POLICIES,
    Fleet,
    SimulatedRun,
    adapter_sizes,
    parse_policies,
    parse_ranks,
    run_report,
    simulate,
    stalls_ms,
)
from lora_cli.bench.trace import Request, build_trace
from lora_cli.bench.workload import AccessPattern, SyntheticWorkload, make_requests
from lora_cli.errors import UsageError
from lora_cli.tiers.eviction import POLICIES, PolicyName, new_ledger
from lora_cli.tiers.memory_accounting import Budget
from lora_cli.tiers.tier import Tier
from tests.requested import requested

NAMES = [f"a{i}" for i in range(60)]
BYTES = 9_765_625
"""A rank takes 1/1024 s on a link of 10 GB/s: a clock that adds up such loads is exact, and equals stay equal."""

SIZES = adapter_sizes(NAMES, parse_ranks("8:.4,16:.4,64:.2"), 3, BYTES)
FLEET = Fleet(SIZES, Budget(6), Budget(20), Links(Link(0, 5, "given"), Link(0, 10, "given")))
TRACE = requested(NAMES, parse_popularity("zipf:0.9"), 3_000, 5, AccessPattern("sessions", (12, 6)))
LETTERS = Fleet(dict.fromkeys("abcdef", 10), Budget(2), Budget(3), Links(Link(5, 1, "given"), Link(1, 1, "given")))


def test_a_request_finds_its_adapter_in_a_slot_in_memory_or_on_disk() -> None:
    # Two slots and three places in memory: after d, memory has b, c and d, and the slots have a and d.
    course = simulate("abcada", LETTERS, "lru")
    assert list(course.found) == [DISK, DISK, DISK, CPU, DISK, GPU]
    put, read = LETTERS.put_ms("a"), LETTERS.read_ms("a")
    assert list(course.load_ms) == [put + read] * 3 + [put, put + read, 0]
    assert course.evictions == (3, 1)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_it_is_the_life_of_two_real_tiers_where_loads_take_what_they_cost(policy: PolicyName) -> None:
    took_ms = 0.0

    def read(key: str) -> str:
        nonlocal took_ms
        took_ms += FLEET.read_ms(key)
        return key

    def put(key: str) -> str:
        nonlocal took_ms
        with memory.lease(key):
            took_ms += FLEET.put_ms(key)
        return key

    memory = Tier(new_ledger(ONLINE_POLICIES[policy], "cpu", FLEET.cpu), weigh=FLEET.sizes.__getitem__, load=read)
    slots = Tier(new_ledger(ONLINE_POLICIES[policy], "gpu", FLEET.gpu), weigh=FLEET.sizes.__getitem__, load=put)
    found = []
    for key in TRACE:
        found.append(GPU if slots.is_loaded(key) else CPU if memory.is_loaded(key) else DISK)
        with slots.lease(key):
            pass
    course = simulate(TRACE, FLEET, policy)
    assert list(course.found) == found
    assert course.evictions == (slots.counts().evictions, memory.counts().evictions)
    assert sum(course.load_ms) == pytest.approx(took_ms)


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
    fleet = Fleet(dict.fromkeys(names, 1), Budget(slots), Budget(500))
    found = simulate(trace, fleet, "lru").found[warm_up:]
    assert found.count(GPU) / len(found) == pytest.approx(expected, abs=0.005)


def test_the_best_course_has_the_most_hits_and_costs_at_least_the_bound() -> None:
    best, least = belady_run(TRACE, FLEET), least_cost_ms(TRACE, FLEET)
    for policy in ONLINE:
        course = simulate(TRACE, FLEET, policy)
        assert course.found.count(GPU) <= best.found.count(GPU)
        assert sum(course.load_ms) >= least
    assert sum(best.load_ms) >= least > 0.5 * sum(best.load_ms)


def test_bytes_of_memory_raise_the_least_cost() -> None:
    room = sum(SIZES.values()) // 6
    one, both = (replace(FLEET, gpu=Budget(60, room), cpu=Budget(60, memory)) for memory in (None, room))
    assert least_cost_ms(TRACE, one) < least_cost_ms(TRACE, both) <= sum(simulate(TRACE, both, "lru").load_ms)


TINY = st.lists(st.sampled_from("abcde"), max_size=9)


@given(TINY, st.integers(1, 3), st.lists(st.integers(1, 4), min_size=5, max_size=5), st.integers(4, 8))
def test_no_choice_of_who_leaves_beats_the_bound(trace: list[str], slots: int, sizes: list[int], room: int) -> None:
    """Every way to let others leave for a newcomer is tried."""
    by_name = dict(zip("abcde", sizes, strict=True))
    fleet = Fleet(by_name, Budget(slots, room), Budget(5))

    def most(number: int, here: frozenset[str]) -> int:
        if number == len(trace):
            return 0
        key = trace[number]
        if key in here:
            return 1 + most(number + 1, here)
        kept = [
            frozenset(one for one, keep in zip(sorted(here), bits, strict=True) if keep) | {key}
            for bits in product((True, False), repeat=len(here))
        ]
        fits = [one for one in kept if len(one) <= slots and sum(map(by_name.__getitem__, one)) <= room]
        return max(most(number + 1, one) for one in fits)

    assert max_hits(trace, fleet) >= most(0, frozenset()) - 1e-9


STARTS = st.lists(st.sampled_from("abcdefg"), max_size=4, unique=True).map(tuple)


@given(TINY, st.integers(1, 2), st.integers(0, 2), st.lists(st.integers(1, 4), min_size=5, max_size=5), STARTS, STARTS)
def test_no_policy_costs_less_than_the_least(
    trace: list[str], slots: int, more: int, sizes: list[int], in_slots: tuple[str, ...], in_memory: tuple[str, ...]
) -> None:
    """Whatever is loaded at first, also adapters that nobody requests."""
    links = Links(Link(5, 1e-6, "given"), Link(1, 1e-6, "given"))
    start = LoadedAdapters(in_slots, in_memory)
    fleet = Fleet(dict(zip("abcde", sizes, strict=True)), Budget(slots), Budget(slots + more), links, start)
    least, best = least_cost_ms(trace, fleet), belady_run(trace, fleet)
    for policy in ONLINE:
        course = simulate(trace, fleet, policy)
        assert sum(course.load_ms) >= least - 1e-6
        assert course.found.count(GPU) <= best.found.count(GPU) <= max_hits(trace, fleet) + 1e-9
    assert sum(best.load_ms) >= least - 1e-6


def test_the_least_cost_counts_on_slots_that_hold_what_has_left_memory() -> None:
    """Two slots and two places hold three adapters: the slots a and c, memory b and c. Nothing is read twice."""
    fleet = replace(LETTERS, cpu=Budget(2))
    course = simulate("abacab", fleet, "lru")
    assert list(course.found) == [DISK, DISK, GPU, DISK, GPU, CPU]
    assert least_cost_ms("abacab", fleet) <= sum(course.load_ms)


def test_an_outcome_is_what_became_of_the_requests_in_numbers() -> None:
    course = SimulatedRun(
        bytearray([DISK] * 40 + [GPU, GPU, GPU, CPU] * 10), simulate("a" * 80, LETTERS, "lru").load_ms, (3, 1)
    )
    waits = [float(number) for number in range(80)]
    found = run_report("online", course, waits)
    assert (found.hits_by_tier, found.evictions) == ({"gpu": 30, "cpu": 10, "disk": 40}, {"gpu": 3, "cpu": 1})
    assert found.hit_ratio_over_time == (0.0,) * 20 + (1.0, 0.5) * 10
    assert (found.stall_ms["p50"], found.stall_ms["p99"], found.stall_ms["mean"]) == (39, 79, 39.5)
    assert (found.stalled, found.stall_cdf_ms[0], found.stall_cdf_ms[-1]) == (79, 0, 79)


def test_loads_wait_for_each_other_and_requests_for_the_load_of_their_adapter() -> None:
    requests = [Request(time_s, name, 1, 1) for time_s, name in ((0.0, "a"), (0.01, "b"), (0.02, "a"), (0.5, "a"))]
    trace = build_trace(requests)
    course = SimulatedRun(bytearray((DISK, DISK, GPU, GPU)), simulate("ab", LETTERS, "lru").load_ms)
    course.load_ms[:] = type(course.load_ms)("d", [40.0, 30.0, 0.0, 0.0])
    # a is here at 40 ms; b comes at 10 ms, and its load goes from 40 to 70.
    assert list(stalls_ms(trace, course)) == pytest.approx([40, 60, 20, 0])


def test_without_times_a_request_waits_for_its_own_load_alone() -> None:
    trace = build_trace([Request(0.0, name, 1, 1) for name in "aab"])
    course = simulate("aab", LETTERS, "lru")
    assert stalls_ms(trace, course) == course.load_ms


@pytest.mark.slow
def test_all_policies_over_one_trace_in_processes_are_what_they_are_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = make_requests(
        NAMES, SyntheticWorkload(parse_popularity("zipf:0.9"), 6_000, 2, AccessPattern("scan", (10,)), 50.0, 0.5)
    )
    policies = ("opt", "lru", "fifo", "lfu")
    monkeypatch.setattr(policy_comparison, "PARALLEL_FROM", 4 * 6_000)
    together = simulate_all(trace, FLEET, policies)
    assert tuple(together.policies) == policies
    alone = [simulate_all(trace, FLEET, [policy]).policies[policy] for policy in policies]
    without_gaps = [replace(one, gap_closed=None, cost_gap_closed=None) for one in together.policies.values()]
    assert without_gaps == alone
    lru, best, lfu = (together.policies[name] for name in ("lru", "opt", "lfu"))
    assert (lru.gap_closed, best.gap_closed) == (0, 1)
    assert 0.2 < (lfu.gap_closed or 0) < 1
    assert 0 < (lfu.cost_gap_closed or 0) < 1


def test_without_lru_or_the_best_there_is_no_gap() -> None:
    trace = make_requests(NAMES, SyntheticWorkload(parse_popularity("uniform"), 200))
    assert simulate_all(trace, FLEET, ["opt", "lfu"]).policies["lfu"].gap_closed is None
    assert simulate_all(trace, FLEET, ["lru", "lfu"]).policies["lfu"].cost_gap_closed is None


def test_where_lru_is_the_best_there_is_no_gap() -> None:
    trace = make_requests(["a"], SyntheticWorkload(parse_popularity("uniform"), 300))
    fleet = Fleet(
        {"a": 83_886_080}, Budget(1), Budget(1), Links(Link(2, 7, "given"), Link(1, 25, "given"))
    )  # costs are not exact
    found = simulate_all(trace, fleet, ["lru", "opt"]).policies["opt"]
    assert (found.gap_closed, found.cost_gap_closed) == (None, None)


def test_policies_are_named_once_each() -> None:
    assert parse_policies("LRU, opt,lru") == ("lru", "opt")
    for text in ("", "lru,", "lru,belady"):
        with pytest.raises(UsageError, match="unknown policy"):
            parse_policies(text)
