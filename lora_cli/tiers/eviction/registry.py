"""The eviction policies by name, and the books of a tier with one of them."""

from collections.abc import Callable, Mapping
from typing import Literal

from lora_cli.tiers.access_history import LONG_TERM, History
from lora_cli.tiers.budget import Budget, Objective, PolicyContext
from lora_cli.tiers.eviction import EvictionPolicy
from lora_cli.tiers.eviction.adaptive import Adaptive
from lora_cli.tiers.eviction.policies import Gdsf, Lru, Ranked
from lora_cli.tiers.memory_accounting import Ledger

PolicyName = Literal["lru", "lfu", "gdsf", "adaptive"]

POLICIES: Mapping[PolicyName, Callable[[PolicyContext], EvictionPolicy]] = {
    "lru": lambda _view: Lru(),
    "lfu": lambda view: Ranked(view.history.rate(LONG_TERM)),
    "gdsf": lambda view: Gdsf(view.worth),
    "adaptive": Adaptive,
}
"""Each makes a policy for one tier: its budget and history are in the view, which the ledger provides."""


def new_ledger(
    make: Callable[[PolicyContext], EvictionPolicy],
    name: str,
    budget: Budget,
    history: History | None = None,
    objective: Objective = "stall",
) -> Ledger:
    """The empty books of one tier with one of ``POLICIES``, over ``history`` or a history of its own.

    A history belongs to one tier: requests that one answers are not asked of the next.
    """
    view = PolicyContext(budget, history if history is not None else History(), objective)
    return Ledger(budget, make(view), view.history, name)
