"""A trace through the books of one tier: what a policy makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_cli.tiers.eviction import POLICIES, PolicyName, new_ledger
from lora_cli.tiers.memory_accounting import Budget


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a trace came to."""

    hits: int
    evictions: int


def replay(trace: Sequence[str], budget: Budget, policy: PolicyName) -> Replayed:
    """One request after the other through an empty tier."""
    ledger = new_ledger(POLICIES[policy], "replayed", budget)
    for key in trace:
        ledger.request(key, 1)
    return Replayed(ledger.counts().hits, ledger.counts().evictions)
