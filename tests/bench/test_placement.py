"""Adapters on servers: what the placement promises for any set, and estimated hits beside a simulation."""

from collections import Counter
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.link_model import Links
from lora_cli.bench.placement import (
    HOT_SHARE,
    SNAP,
    Demand,
    ServerLimits,
    by_hash,
    demands_of,
    hit_ratio,
    place,
    round_robin,
    slots_for,
    strategies,
    summarize,
)
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.simulator import Fleet, parse_ranks, simulate
from lora_cli.bench.trace import Request, build_trace
from lora_cli.bench.workload import SyntheticWorkload, make_requests
from lora_cli.tiers.memory_accounting import Budget

LIMITS = ServerLimits(8)


def fleet(adapters: int, popularity: str = "zipf:1.0") -> list[Demand]:
    names = [f"a{number}" for number in range(adapters)]
    ranks, weights = parse_ranks("8:.4,16:.4,64:.2").of(names, 0), parse_popularity(popularity).weights(names)
    return [Demand(name, ranks[name], weight, weight) for name, weight in zip(names, weights, strict=True)]


DEMANDS = st.lists(st.tuples(st.sampled_from([8, 16, 64]), st.sampled_from([0.0, 0.0, 1.0, 5.0, 400.0])), min_size=1)


@given(DEMANDS, st.integers(1, 12))
def test_every_adapter_is_served_whole_and_servers_have_few_ranks(drawn: list[tuple[int, float]], servers: int) -> None:
    demands = [Demand(f"a{number}", rank, load, load) for number, (rank, load) in enumerate(drawn)]
    found = place(demands, servers)
    assert len(found) == servers
    parts = Counter[int]()
    for adapters in found:
        for at, part in adapters.items():
            parts[at] += part  # type: ignore[assignment]
    assert [parts[at] for at in range(len(demands))] == pytest.approx([1.0] * len(demands))
    mixed = sum(len({demands[at].rank for at in adapters}) - 1 for adapters in found if adapters)
    assert mixed <= len({one.rank for one in demands}) - 1
    assert place(demands, servers) == found


def test_loads_are_balanced_and_hot_adapters_are_on_several_servers() -> None:
    demands = fleet(2_000)
    found = place(demands, 20)
    fair = fsum(one.load for one in demands) / 20
    loads = [fsum(demands[at].load * part for at, part in adapters.items()) for adapters in found]
    assert max(loads) <= fair * (1 + 2 * SNAP)
    assert sum(0 in adapters for adapters in found) == -(-demands[0].load // (fair * HOT_SHARE)) > 1


@pytest.mark.parametrize("loads", [[0.0] * 100, [*range(30, 0, -1), *[0.0] * 70]])
def test_idle_adapters_are_spread_by_their_number(loads: list[float]) -> None:
    found = place([Demand(str(at), 8, load, load) for at, load in enumerate(loads)], 10)
    assert {len(adapters) for adapters in found} <= {10, 11}


def test_a_hot_adapter_is_split_by_the_room_of_its_servers() -> None:
    demands = [Demand(f"a{at}", 64 if at < 2 else 8, 1, 1) for at in range(4)]
    found = place(demands, 3)
    assert [fsum(adapters.values()) for adapters in found] == pytest.approx([4 / 3] * 3)
    assert found[0] == pytest.approx({0: 2 / 3, 1: 2 / 3})


def test_a_server_takes_no_second_rank_for_a_little_of_its_traffic() -> None:
    demands = [Demand(f"a{at}", 64 if at < 51 else 8, 1, 1) for at in range(100)]
    assert [{demands[at].rank for at in adapters} for adapters in place(demands, 2)] == [{64}, {8}]
    assert [len({demands[at].rank for at in adapters}) for adapters in place(demands, 3)] == [1, 2, 1]


def test_it_needs_less_of_everything_than_round_robin_and_hashing() -> None:
    found = dict(strategies(fleet(2_000), 20, ServerLimits(32, ranks=(8, 16, 32, 64))))
    assert list(found) == ["rank", "round-robin", "hash"]
    for name in ("round-robin", "hash"):
        assert found["rank"].busiest_server < found[name].busiest_server / 2
        assert found["rank"].rank_padding < found[name].rank_padding / 2
        assert found["rank"].slot_ranks < found[name].slot_ranks / 2
        assert found[name].copies == 2_000 < found["rank"].copies
    assert found["rank"].rank_padding >= 1


@pytest.mark.parametrize("slots", [8, 32, 90])
def test_estimated_hits_are_those_of_a_simulated_lru(slots: int) -> None:
    names = [f"a{number}" for number in range(100)]
    popularity = parse_popularity("zipf:1.0")
    trace = make_requests(names, SyntheticWorkload(popularity, 50_000, 1))
    run = simulate(trace.keys(), Fleet(dict.fromkeys(names, 1), Budget(slots), Budget(100), Links()), "lru")
    estimated = hit_ratio([float(one) for one in popularity.weights(names)], slots)
    assert estimated == pytest.approx(run.found.count(0) / len(trace), abs=0.01)


@pytest.mark.parametrize("goal", [0.3, 0.5, 0.9, 0.99, 1.0])
def test_one_slot_fewer_does_not_reach_the_goal(goal: float) -> None:
    rates = [1 / rank for rank in range(1, 101)]
    slots = slots_for(rates, goal)
    assert hit_ratio(rates, slots) >= goal
    assert hit_ratio(rates, slots - 1) < goal
    assert slots_for([], goal) == 0


def test_a_server_has_the_slots_of_its_goal_and_of_its_pinned_adapters() -> None:
    demands = [Demand(f"a{at}", 12, 1 / (at + 1), 1.0) for at in range(20)]
    limits = ServerLimits(8, 0.5, (8, 16, 32))
    summary = summarize(demands, [dict.fromkeys(range(20), 1.0), {}], limits)
    one, empty = summary.servers
    assert (one.max_lora_rank, one.max_loras) == (16, slots_for([each.requests for each in demands], 0.5))
    assert (empty.adapters, empty.max_loras, empty.max_lora_rank, empty.hit_ratio) == ((), 0, 0, None)
    assert summary.misses_goal == 0
    assert summary.busiest_server == 2
    few = summarize(demands, [dict.fromkeys(range(20), 1.0)], ServerLimits(2, 0.9))
    assert (few.misses_goal, few.slots) == (1, 2)
    names = frozenset(one.name for one in demands[:15])
    assert summarize(demands, [dict.fromkeys(range(20), 1.0)], ServerLimits(2, 0.1, (), names)).slots == 15


def test_demands_are_the_requests_and_tokens_of_a_trace() -> None:
    trace = build_trace([Request(0, "a", 3, 4), Request(1, "b", 1, 1), Request(2, "a", 1, 0)])
    found = demands_of({"a": 8, "b": 16, "c": 8}, trace)
    assert found == [Demand("a", 8, 2, 8), Demand("b", 16, 1, 2), Demand("c", 8, 0, 0)]
    assert demands_of({"c": 4}, None) == [Demand("c", 4, 1, 1)]


def test_hashing_depends_on_the_name_alone_and_round_robin_on_the_place() -> None:
    demands = fleet(50)
    assert [sorted(one) for one in round_robin(demands, 3)] == [[*range(first, 50, 3)] for first in range(3)]
    alone, whole = by_hash(demands[:1], 7), by_hash(demands, 7)
    assert [0 in one for one in alone] == [0 in one for one in whole]
