"""How many slots and places a goal takes: what is found holds, and one fewer does not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_cli.bench.capacity_planning import plan_capacity, smallest_that_meets
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.report import PolicyPlan
from lora_cli.bench.simulator import Fleet, adapter_sizes, parse_ranks, run_report, simulate, stalls_ms
from lora_cli.bench.thresholds import parse_goals, policy_metrics
from lora_cli.bench.workload import AccessPattern, SyntheticWorkload, make_requests
from lora_cli.tiers.memory_accounting import Budget

NAMES = [f"a{i}" for i in range(60)]
FLEET = Fleet(adapter_sizes(NAMES, parse_ranks("8:.4,64:.2"), 3), Budget(1), Budget(1))
TRACE = make_requests(NAMES, SyntheticWorkload(parse_popularity("zipf:1.0"), 3_000, 1, AccessPattern(), 30.0))


def holds(policy: str, goal: str, slots: int, places: int) -> bool:
    course = simulate(TRACE.keys(), replace(FLEET, gpu=Budget(slots), cpu=Budget(places)), policy)
    told = policy_metrics(run_report("online", course, stalls_ms(TRACE, course)))
    return all(one.holds(getattr(told, one.metric) or 0) for one in parse_goals([goal]))


def sizing(goals: Sequence[str], policies: Sequence[str] = ("lru",)) -> Mapping[str, PolicyPlan]:
    return plan_capacity(TRACE, FLEET, policies, parse_goals(goals)).plan.policies


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_one_slot_fewer_does_not_meet_a_hit_ratio(policy: str) -> None:
    (answer,) = sizing(["hit_ratio>=0.8"], [policy])[policy].answers
    assert answer.slots == answer.places
    assert (answer.metrics.hit_ratio or 0) >= 0.8
    assert not holds(policy, "hit_ratio>=0.8", answer.slots - 1, 60)


def test_one_slot_or_place_fewer_does_not_meet_a_stall() -> None:
    answers = sizing(["stall_p95_ms<20"])["lru"].answers
    assert len(answers) >= 2
    first = answers[0]
    assert holds("lru", "stall_p95_ms<20", first.slots, first.places)
    assert not holds("lru", "stall_p95_ms<20", first.slots, first.places - 1)
    assert first.slots == 1 or not holds("lru", "stall_p95_ms<20", first.slots - 1, 60)
    assert [one.slots for one in answers] == sorted(one.slots for one in answers)
    assert [one.places for one in answers] == sorted((one.places for one in answers), reverse=True)


def test_a_goal_that_nothing_meets_has_what_there_is_at_most() -> None:
    found = sizing(["hit_ratio>=0.999"])["lru"]
    assert found.answers == ()
    assert (found.with_all.slots, found.with_all.metrics.hit_ratio) == (60, 1 - 60 / 3_000)


def test_one_slot_may_be_enough() -> None:
    (answer,) = sizing(["hit_ratio>=0.001"])["lru"].answers
    assert (answer.slots, answer.places) == (1, 1)


def test_several_goals_hold_at_once() -> None:
    (answer,) = sizing(["hit_ratio>=0.8,memory_hit_ratio>=0.9"])["lru"].answers[:1]
    assert holds("lru", "hit_ratio>=0.8", answer.slots, answer.places)
    assert holds("lru", "memory_hit_ratio>=0.9", answer.slots, answer.places)


@given(st.integers(1, 50), st.integers(0, 50))
def test_halving_finds_the_least(low: int, more: int) -> None:
    assert smallest_that_meets(low, low + more, partial(int.__le__, low + more // 2)) == low + more // 2
