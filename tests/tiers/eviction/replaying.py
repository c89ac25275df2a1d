"""A trace through the books of one tier: what a policy makes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lora_cli.tiers.eviction import POLICIES, Objective, PolicyName, new_ledger
from lora_cli.tiers.memory_accounting import Budget


@dataclass(frozen=True, slots=True)
class Replayed:
    """``cost_ms`` is the sum of the loads of all misses."""

    hits: int
    evictions: int
    cost_ms: float


def replay(
    trace: Sequence[str],
    budget: Budget,
    policy: PolicyName,
    *,
    weigh: Callable[[str], int] = lambda _key: 1,
    cost_ms: Callable[[str], float] = lambda _key: 1.0,
    objective: Objective = "stall",
) -> Replayed:
    """One request after the other through an empty tier."""
    ledger, lost = new_ledger(POLICIES[policy], "replayed", budget, objective=objective), 0.0
    for key in trace:
        cost = cost_ms(key)
        if ledger.request(key, weigh(key), cost) is not None:
            lost += cost
    return Replayed(ledger.counts().hits, ledger.counts().evictions, lost)
