"""How many slots and places in memory it takes to meet a goal, by trying."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from lora_cli.bench.conditions import Condition
from lora_cli.bench.fleet import Fleet
from lora_cli.bench.metrics import policy_metrics
from lora_cli.bench.outcome import outcome
from lora_cli.bench.simulate import simulate
from lora_cli.bench.spread import spread
from lora_cli.bench.stalls import stalls_ms
from lora_cli.bench.trace import Trace
from lora_cli.tiers.budget import Budget
from lora_cli.tiers.view import Objective

OF_SLOTS_ALONE = frozenset({"hit_ratio"})
"""Metrics that memory changes nothing about."""

MORE_SLOTS = (1, 2, 4)
"""What is tried besides the fewest slots: with more of them less memory may do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """So many slots and places in memory, and the metrics that they have."""

    slots: int
    places: int
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Sizing:
    """The fewest slots with the least memory first; none when all adapters in slots at once do not meet the goal.

    ``most`` is what they have then.
    """

    policy: str
    answers: tuple[Answer, ...]
    most: Answer


def size_all(
    trace: Trace, fleet: Fleet, policies: Sequence[str], goals: Sequence[Condition], objective: Objective
) -> dict[str, Sizing]:
    """What each policy needs to meet all goals at once; limits in bytes are not looked at.

    Ctrl-C leaves out the policies that are not done.
    """
    tasks = [(trace, fleet, policy, tuple(goals), objective) for policy in policies]
    found: dict[str, Sizing] = {}
    with suppress(KeyboardInterrupt):
        for one in spread(_size, tasks, worth=len(trace) >= 5_000):
            found[one.policy] = one
    return {policy: found[policy] for policy in policies if policy in found}


def fewest(low: int, high: int, meets: Callable[[int], bool]) -> int:
    """The least number from ``low`` on that meets the goal, where ``high`` does and more is never worse."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle + 1, high)
    return high


def _size(task: tuple[Trace, Fleet, str, tuple[Condition, ...], Objective]) -> Sizing:
    trace, fleet, policy, goals, objective = task
    keys, everybody = trace.keys(), len(fleet.sizes)
    tried: dict[tuple[int, int], Answer] = {}

    def with_places(slots: int, places: int) -> Answer:
        if (slots, places) not in tried:
            course = simulate(keys, replace(fleet, gpu=Budget(slots), cpu=Budget(places)), policy, objective)
            told = policy_metrics(outcome(policy, "online", course, stalls_ms(trace, course)))
            tried[slots, places] = Answer(slots, places, told)
        return tried[slots, places]

    def meets(slots: int, places: int) -> bool:
        told = with_places(slots, places).metrics
        return all(goal.holds(told[goal.metric] or 0.0) for goal in goals)

    most = with_places(everybody, everybody)
    if not meets(everybody, everybody):
        return Sizing(policy, (), most)
    least = fewest(1, everybody, lambda slots: meets(slots, everybody))
    if all(goal.metric in OF_SLOTS_ALONE for goal in goals):
        return Sizing(policy, (with_places(least, least),), most)
    answers: list[Answer] = []
    for slots in dict.fromkeys(min(least * times, everybody) for times in MORE_SLOTS):
        most_places = answers[-1].places if answers else everybody
        if slots > most_places or not meets(slots, most_places):
            break
        places = fewest(slots, most_places, partial(meets, slots))
        if not answers or places < most_places:
            answers.append(with_places(slots, places))
    return Sizing(policy, tuple(answers), most)
